# Plans of the three fronts, without an account: terraform -chdir=terraform test

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  environment  = "dev"
  region       = "eu-west-1"
  image_digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

  # With the role for GitHub, whose rights name the front.
  github_repository = "OWNER/NAME"
  state_bucket      = "state"
}

run "rest_streams_for_fifteen_minutes" {
  command = plan

  assert {
    condition     = length(aws_api_gateway_integration.function) == 2 && alltrue([for each in aws_api_gateway_integration.function : each.response_transfer_mode == "STREAM" && each.timeout_milliseconds == 900000])
    error_message = "Both routes must stream, for as long as the function runs."
  }
  assert {
    condition     = aws_lambda_function.api[0].timeout == 900
    error_message = "The function must run as long as the front waits."
  }
  assert {
    condition = {
      for name, value in aws_lambda_function.api[0].environment[0].variables : name => value
      if endswith(name, "_SECONDS") || name == "LAMBDA_RESPONSE_MODE"
      } == {
      LAMBDA_RESPONSE_MODE    = "streaming"
      REQUEST_TIMEOUT_SECONDS = "290"
      STREAM_TIMEOUT_SECONDS  = "898"
    }
    error_message = "A plain answer must be there before the gateway's idle timeout of five minutes."
  }
  assert {
    condition     = strcontains(aws_api_gateway_stage.rest[0].access_log_settings[0].format, "\"$context.integration.responseTransferMode\"")
    error_message = "The access log must say how an answer was passed on."
  }
  assert {
    condition     = one(aws_api_gateway_method_settings.rest[0].settings[*]).throttling_rate_limit == 50
    error_message = "The stage must be throttled."
  }
  assert {
    condition     = aws_lambda_permission.rest[0].qualifier == "live" && aws_lambda_permission.rest[0].principal == "apigateway.amazonaws.com"
    error_message = "The gateway must be allowed to invoke the alias."
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.each["server-errors"].metric_name == "5XXError" && aws_cloudwatch_metric_alarm.each["duration"].threshold == 810000
    error_message = "The alarms must watch this front."
  }
  assert {
    condition     = length(aws_apigatewayv2_api.http) + length(aws_lambda_function_url.url) == 0
    error_message = "There must be one front."
  }
}

run "rest_with_a_domain_has_one_address" {
  command = plan

  variables {
    domain_name     = "chat.example.org"
    certificate_arn = "arn:aws:acm:eu-west-1:123456789012:certificate/1"
  }

  assert {
    condition     = output.url == "https://chat.example.org" && aws_api_gateway_rest_api.rest[0].disable_execute_api_endpoint
    error_message = "The domain must be the only address."
  }
  assert {
    condition     = aws_api_gateway_base_path_mapping.rest[0].stage_name == "dev" && aws_api_gateway_domain_name.rest[0].security_policy == "TLS_1_2"
    error_message = "The domain must lead to the stage."
  }
}

run "rest_before_there_is_an_image" {
  command = plan

  variables {
    image_digest = ""
  }

  assert {
    condition     = length(aws_api_gateway_deployment.rest) == 0 && length(aws_lambda_function.api) == 0
    error_message = "A REST API without a function cannot be deployed."
  }
}

run "the_log_role_may_be_made_elsewhere" {
  command = plan

  variables {
    gateway_log_role = false
  }

  assert {
    condition     = length(aws_api_gateway_account.logs) + length(aws_iam_role.gateway) == 0 && length(aws_api_gateway_stage.rest) == 1
    error_message = "The account's role must be left alone."
  }
}

run "url_streams" {
  command = plan

  variables {
    front = "url"
  }

  assert {
    condition     = aws_lambda_function_url.url[0].invoke_mode == "RESPONSE_STREAM" && aws_lambda_function_url.url[0].qualifier == "live"
    error_message = "The URL must be the alias's, and stream."
  }
  assert {
    condition     = [aws_lambda_permission.url[0].action, aws_lambda_permission.url_invokes[0].action] == ["lambda:InvokeFunctionUrl", "lambda:InvokeFunction"] && aws_lambda_permission.url_invokes[0].invoked_via_function_url
    error_message = "A public URL needs both permissions."
  }
  assert {
    condition = {
      for name, value in aws_lambda_function.api[0].environment[0].variables : name => value
      if endswith(name, "_SECONDS") || name == "LAMBDA_RESPONSE_MODE"
      } == {
      LAMBDA_RESPONSE_MODE    = "streaming"
      REQUEST_TIMEOUT_SECONDS = "898"
      STREAM_TIMEOUT_SECONDS  = "898"
    }
    error_message = "Answers may take as long as the function."
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.each["server-errors"].metric_name == "Url5xxCount"
    error_message = "The alarm must watch this front."
  }
  assert {
    condition     = length(aws_apigatewayv2_api.http) + length(aws_api_gateway_rest_api.rest) + length(aws_cloudwatch_log_group.access) == 0
    error_message = "There must be one front, which writes no access log."
  }
}

run "url_has_no_domain" {
  command = plan

  variables {
    front           = "url"
    domain_name     = "chat.example.org"
    certificate_arn = "arn:aws:acm:eu-west-1:123456789012:certificate/1"
  }

  expect_failures = [var.domain_name]
}

run "http_buffers_for_thirty_seconds" {
  command = plan

  variables {
    front = "http"
  }

  assert {
    condition     = aws_apigatewayv2_integration.function[0].timeout_milliseconds == 30000 && aws_lambda_function.api[0].timeout == 30
    error_message = "An HTTP API waits for 30 seconds."
  }
  assert {
    condition = {
      for name, value in aws_lambda_function.api[0].environment[0].variables : name => value
      if endswith(name, "_SECONDS") || name == "LAMBDA_RESPONSE_MODE"
      } == {
      LAMBDA_RESPONSE_MODE    = "buffered"
      REQUEST_TIMEOUT_SECONDS = "28"
      STREAM_TIMEOUT_SECONDS  = "28"
    }
    error_message = "Answers must be there before the gateway gives up."
  }
  assert {
    condition     = length(aws_apigatewayv2_api.http[0].cors_configuration) == 0
    error_message = "CORS is the application's."
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.each["server-errors"].metric_name == "5xx" && aws_lambda_permission.http[0].qualifier == "live"
    error_message = "The alarm must watch this front, which invokes the alias."
  }
  assert {
    condition     = length(aws_api_gateway_rest_api.rest) + length(aws_lambda_function_url.url) == 0
    error_message = "There must be one front."
  }
}

run "deadlines_follow_the_function_and_settings_win" {
  command = plan

  variables {
    timeout_seconds = 120
    settings        = { REQUEST_TIMEOUT_SECONDS = "60" }
  }

  assert {
    condition     = aws_lambda_function.api[0].environment[0].variables["STREAM_TIMEOUT_SECONDS"] == "118" && aws_lambda_function.api[0].environment[0].variables["REQUEST_TIMEOUT_SECONDS"] == "60"
    error_message = "A stream must end two seconds before the function."
  }
  assert {
    condition     = alltrue([for each in aws_api_gateway_integration.function : each.timeout_milliseconds == 120000])
    error_message = "The gateway must wait as long as the function runs."
  }
}
