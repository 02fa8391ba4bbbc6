resource "aws_apigatewayv2_api" "http" {
  name          = local.name
  protocol_type = "HTTP"

  # With a domain of one's own there is one address, not two.
  disable_execute_api_endpoint = var.domain_name != ""

  dynamic "cors_configuration" {
    for_each = length(var.cors_origins) > 0 ? [var.cors_origins] : []

    content {
      allow_origins = cors_configuration.value
      allow_methods = ["GET", "POST", "DELETE"]
      allow_headers = ["authorization", "content-type", "idempotency-key", "x-api-key", "x-request-id"]
      expose_headers = [
        "idempotency-replayed",
        "retry-after",
        "server-timing",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
        "x-request-id",
      ]
      max_age = 3600
    }
  }
}

resource "aws_apigatewayv2_stage" "default" {
  api_id      = aws_apigatewayv2_api.http.id
  name        = "$default"
  auto_deploy = true

  default_route_settings {
    throttling_rate_limit  = var.throttling_rate
    throttling_burst_limit = var.throttling_burst
  }

  access_log_settings {
    destination_arn = aws_cloudwatch_log_group.access.arn
    format = jsonencode({
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
    })
  }
}

resource "aws_apigatewayv2_integration" "function" {
  count = length(aws_lambda_alias.live)

  api_id                 = aws_apigatewayv2_api.http.id
  integration_type       = "AWS_PROXY"
  integration_uri        = aws_lambda_alias.live[0].invoke_arn
  payload_format_version = "2.0"
  timeout_milliseconds   = 30000
}

resource "aws_apigatewayv2_route" "default" {
  #checkov:skip=CKV_AWS_309:The application asks for keys itself (REQUIRE_API_KEY).
  count = length(aws_lambda_alias.live)

  api_id    = aws_apigatewayv2_api.http.id
  route_key = "$default"
  target    = "integrations/${aws_apigatewayv2_integration.function[0].id}"

  # A route without it answers 500.
  depends_on = [aws_lambda_permission.gateway]
}

resource "aws_lambda_permission" "gateway" {
  count = length(aws_lambda_alias.live)

  statement_id  = "gateway"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_alias.live[0].function_name
  qualifier     = aws_lambda_alias.live[0].name
  principal     = "apigateway.amazonaws.com"
  source_arn    = "${aws_apigatewayv2_api.http.execution_arn}/*"
}

# --- A domain of one's own ------------------------------------------------------------------------

resource "aws_apigatewayv2_domain_name" "own" {
  count = var.domain_name == "" ? 0 : 1

  domain_name = var.domain_name

  domain_name_configuration {
    certificate_arn = var.certificate_arn
    endpoint_type   = "REGIONAL"
    security_policy = "TLS_1_2"
  }
}

resource "aws_apigatewayv2_api_mapping" "own" {
  count = length(aws_apigatewayv2_domain_name.own)

  api_id      = aws_apigatewayv2_api.http.id
  domain_name = aws_apigatewayv2_domain_name.own[0].id
  stage       = aws_apigatewayv2_stage.default.id
}
