# front = "http": an HTTP API, which returns an answer when it is whole, within 30 seconds.

locals {
  http       = var.front == "http" ? 1 : 0
  http_count = local.http * length(aws_lambda_alias.live)
}

resource "aws_apigatewayv2_api" "http" {
  count = local.http

  name          = local.name
  protocol_type = "HTTP"

  # With a custom domain there is one address, not two.
  disable_execute_api_endpoint = var.domain_name != ""
}

resource "aws_apigatewayv2_stage" "default" {
  count = local.http

  api_id      = aws_apigatewayv2_api.http[0].id
  name        = "$default"
  auto_deploy = true

  default_route_settings {
    throttling_rate_limit  = var.throttling_rate
    throttling_burst_limit = var.throttling_burst
  }

  access_log_settings {
    destination_arn = aws_cloudwatch_log_group.access[0].arn
    format          = jsonencode(local.access_log)
  }
}

resource "aws_apigatewayv2_integration" "function" {
  count = local.http_count

  api_id                 = aws_apigatewayv2_api.http[0].id
  integration_type       = "AWS_PROXY"
  integration_uri        = aws_lambda_alias.live[0].invoke_arn
  payload_format_version = "2.0"
  timeout_milliseconds   = local.front.seconds * 1000
}

resource "aws_apigatewayv2_route" "default" {
  #checkov:skip=CKV_AWS_309:The application asks for keys itself (REQUIRE_API_KEY).
  count = local.http_count

  api_id    = aws_apigatewayv2_api.http[0].id
  route_key = "$default"
  target    = "integrations/${aws_apigatewayv2_integration.function[0].id}"

  # A route without it answers 500.
  depends_on = [aws_lambda_permission.http]
}

resource "aws_lambda_permission" "http" {
  count = local.http_count

  statement_id  = "http"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_alias.live[0].function_name
  qualifier     = aws_lambda_alias.live[0].name
  principal     = "apigateway.amazonaws.com"
  source_arn    = "${aws_apigatewayv2_api.http[0].execution_arn}/*"
}

# --- A custom domain ------------------------------------------------------------------------------

resource "aws_apigatewayv2_domain_name" "http" {
  count = var.domain_name == "" ? 0 : local.http

  domain_name = var.domain_name

  domain_name_configuration {
    certificate_arn = var.certificate_arn
    endpoint_type   = "REGIONAL"
    security_policy = "TLS_1_2"
  }
}

resource "aws_apigatewayv2_api_mapping" "http" {
  count = length(aws_apigatewayv2_domain_name.http)

  api_id      = aws_apigatewayv2_api.http[0].id
  domain_name = aws_apigatewayv2_domain_name.http[0].id
  stage       = aws_apigatewayv2_stage.default[0].id
}
