# What answers HTTP in front of the function: a REST API (front_rest.tf), a function URL (front_url.tf)
# or an HTTP API (front_http.tf). docs/deploy.md compares them.

locals {
  # Seconds that the front waits for a whole answer, and for its first byte. A REST API closes a
  # connection that is silent for five minutes; a stream sends heartbeats, a plain answer does not.
  # https://docs.aws.amazon.com/apigateway/latest/developerguide/response-transfer-mode.html
  fronts = {
    rest = { streams = true, seconds = 900, silent_seconds = 290 }
    url  = { streams = true, seconds = 900, silent_seconds = 900 }
    http = { streams = false, seconds = 30, silent_seconds = 30 }
  }
  front         = local.fronts[var.front]
  response_mode = local.front.streams ? "streaming" : "buffered"

  timeout_seconds = coalesce(var.timeout_seconds, local.front.seconds)
  # Two seconds are to settle the record and to respond.
  deadline_seconds = min(local.timeout_seconds, local.front.seconds) - 2

  front_variables = {
    LAMBDA_RESPONSE_MODE    = local.response_mode
    REQUEST_TIMEOUT_SECONDS = tostring(min(local.deadline_seconds, local.front.silent_seconds))
    STREAM_TIMEOUT_SECONDS  = tostring(local.deadline_seconds)
  }

  url = {
    rest = one(aws_api_gateway_stage.rest[*].invoke_url)
    url  = one([for url in aws_lambda_function_url.url[*].function_url : trimsuffix(url, "/")])
    http = one(aws_apigatewayv2_api.http[*].api_endpoint)
  }[var.front]

  # The front's answers with 5xx, as CloudWatch counts them.
  server_errors = {
    rest = { namespace = "AWS/ApiGateway", metric = "5XXError", dimensions = { ApiName = local.name, Stage = var.environment } }
    url  = { namespace = "AWS/Lambda", metric = "Url5xxCount", dimensions = { FunctionName = local.name } }
    http = { namespace = "AWS/ApiGateway", metric = "5xx", dimensions = { ApiId = one(aws_apigatewayv2_api.http[*].id) } }
  }[var.front]

  access_log = {
    time               = "$context.requestTime"
    gateway_request_id = "$context.requestId"
    lambda_request_id  = "$context.integration.requestId"
    address            = "$context.identity.sourceIp"
    method             = "$context.httpMethod"
    path               = "$context.path"
    status             = "$context.status"
    bytes              = "$context.responseLength"
    latency_ms         = "$context.responseLatency"
    lambda_latency_ms  = "$context.integrationLatency"
    error              = "$context.error.message"
    lambda_error       = "$context.integrationErrorMessage"
  }
}
