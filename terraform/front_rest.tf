# front = "rest": a regional REST API that passes answers on as the function writes them. Its address
# ends with the stage, which is the environment's name: https://….amazonaws.com/dev/v1/chat.

locals {
  rest = var.front == "rest" ? 1 : 0
  # There is nothing to deploy before the function exists.
  rest_routes = toset(local.rest * length(aws_lambda_alias.live) > 0 ? ["root", "proxy"] : [])
}

resource "aws_api_gateway_rest_api" "rest" {
  count = local.rest

  name = local.name
  # Requests reach the function byte for byte: compressed ones are not text.
  binary_media_types = ["*/*"]
  # With a custom domain there is one address, not two.
  disable_execute_api_endpoint = var.domain_name != ""

  endpoint_configuration {
    types = ["REGIONAL"]
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_api_gateway_resource" "proxy" {
  count = local.rest

  rest_api_id = aws_api_gateway_rest_api.rest[0].id
  parent_id   = aws_api_gateway_rest_api.rest[0].root_resource_id
  path_part   = "{proxy+}"
}

resource "aws_api_gateway_method" "any" {
  #checkov:skip=CKV_AWS_59:The application asks for keys itself (REQUIRE_API_KEY).
  #checkov:skip=CKV2_AWS_53:The application validates requests itself.
  for_each = local.rest_routes

  rest_api_id   = aws_api_gateway_rest_api.rest[0].id
  resource_id   = each.key == "root" ? aws_api_gateway_rest_api.rest[0].root_resource_id : aws_api_gateway_resource.proxy[0].id
  http_method   = "ANY"
  authorization = "NONE"
}

# The address of a streaming invocation, which the alias has no attribute for.
# https://docs.aws.amazon.com/apigateway/latest/developerguide/response-transfer-mode-lambda.html
resource "aws_api_gateway_integration" "function" {
  for_each = aws_api_gateway_method.any

  rest_api_id             = each.value.rest_api_id
  resource_id             = each.value.resource_id
  http_method             = each.value.http_method
  type                    = "AWS_PROXY"
  integration_http_method = "POST"
  uri                     = "arn:${local.partition}:apigateway:${var.region}:lambda:path/2021-11-15/functions/${aws_lambda_alias.live[0].arn}/response-streaming-invocations"
  response_transfer_mode  = "STREAM"
  timeout_milliseconds    = local.timeout_seconds * 1000
}

resource "aws_api_gateway_deployment" "rest" {
  count = min(length(local.rest_routes), 1)

  rest_api_id = aws_api_gateway_rest_api.rest[0].id

  # A REST API serves what was deployed last: deploy when any of these changes.
  triggers = {
    redeployment = sha1(jsonencode([
      aws_api_gateway_rest_api.rest[0].binary_media_types,
      aws_api_gateway_resource.proxy[0].id,
      aws_api_gateway_method.any,
      aws_api_gateway_integration.function,
    ]))
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_api_gateway_stage" "rest" {
  #checkov:skip=CKV_AWS_73:Requests are found by the id that each log line has.
  #checkov:skip=CKV_AWS_120:Answers are never the same; a stream cannot be cached.
  #checkov:skip=CKV2_AWS_4:A streaming API writes no execution log.
  #checkov:skip=CKV2_AWS_29:A firewall costs by the hour; the application asks for keys and counts requests.
  #checkov:skip=CKV2_AWS_51:Clients show a key, not a certificate.
  count = length(aws_api_gateway_deployment.rest)

  rest_api_id   = aws_api_gateway_rest_api.rest[0].id
  deployment_id = aws_api_gateway_deployment.rest[0].id
  stage_name    = var.environment

  access_log_settings {
    destination_arn = aws_cloudwatch_log_group.access[0].arn
    format = jsonencode(merge(local.access_log, {
      response_mode  = "$context.integration.responseTransferMode"
      first_byte_ms  = "$context.integration.timeToFirstContent"
      all_headers_ms = "$context.integration.timeToAllHeaders"
    }))
  }

  # A stage without it answers 500; one with a log needs the account's role.
  depends_on = [aws_lambda_permission.rest, aws_api_gateway_account.logs]
}

resource "aws_api_gateway_method_settings" "rest" {
  #checkov:skip=CKV_AWS_225:Answers are never the same; a stream cannot be cached.
  count = length(aws_api_gateway_stage.rest)

  rest_api_id = aws_api_gateway_rest_api.rest[0].id
  stage_name  = aws_api_gateway_stage.rest[0].stage_name
  method_path = "*/*"

  settings {
    throttling_rate_limit  = var.throttling_rate
    throttling_burst_limit = var.throttling_burst
  }
}

resource "aws_lambda_permission" "rest" {
  count = local.rest * length(aws_lambda_alias.live)

  statement_id  = "rest"
  action        = "lambda:InvokeFunction" # of streaming invocations, too
  function_name = aws_lambda_alias.live[0].function_name
  qualifier     = aws_lambda_alias.live[0].name
  principal     = "apigateway.amazonaws.com"
  source_arn    = "${aws_api_gateway_rest_api.rest[0].execution_arn}/*"
}

# --- The role that writes the access log ----------------------------------------------------------

# REST APIs write their logs with one role for the account and region.

data "aws_iam_policy_document" "gateway_assumes" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["apigateway.amazonaws.com"]
    }
  }
}

locals {
  gateway_log_role = var.gateway_log_role ? local.rest : 0
}

resource "aws_iam_role" "gateway" {
  count = local.gateway_log_role

  name               = "${local.name}-gateway"
  assume_role_policy = data.aws_iam_policy_document.gateway_assumes.json
}

resource "aws_iam_role_policy_attachment" "gateway" {
  count = local.gateway_log_role

  role       = aws_iam_role.gateway[0].name
  policy_arn = "arn:${local.partition}:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs"
}

resource "aws_api_gateway_account" "logs" {
  count = local.gateway_log_role

  cloudwatch_role_arn = aws_iam_role.gateway[0].arn

  # API Gateway tries the role when it is set.
  depends_on = [aws_iam_role_policy_attachment.gateway]
}

# --- A custom domain ------------------------------------------------------------------------------

resource "aws_api_gateway_domain_name" "rest" {
  count = var.domain_name == "" ? 0 : local.rest

  domain_name              = var.domain_name
  regional_certificate_arn = var.certificate_arn
  security_policy          = "TLS_1_2"

  endpoint_configuration {
    types = ["REGIONAL"]
  }
}

resource "aws_api_gateway_base_path_mapping" "rest" {
  count = length(aws_api_gateway_domain_name.rest) * length(aws_api_gateway_stage.rest)

  domain_name = aws_api_gateway_domain_name.rest[0].domain_name
  api_id      = aws_api_gateway_rest_api.rest[0].id
  stage_name  = aws_api_gateway_stage.rest[0].stage_name
}
