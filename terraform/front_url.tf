# front = "url": a function URL. It costs nothing by itself, has no throttling, access log or custom
# domain, and reserved_concurrency is its only brake.

locals {
  url_count = var.front == "url" ? length(aws_lambda_alias.live) : 0
}

resource "aws_lambda_function_url" "url" {
  #checkov:skip=CKV_AWS_258:The application asks for keys itself (REQUIRE_API_KEY).
  count = local.url_count

  function_name      = aws_lambda_alias.live[0].function_name
  qualifier          = aws_lambda_alias.live[0].name
  authorization_type = "NONE"
  invoke_mode        = "RESPONSE_STREAM"
}

# A public URL needs both: https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html
# The provider adds the same when it creates the URL, but leaves them there when the URL goes.
resource "aws_lambda_permission" "url" {
  #checkov:skip=CKV_AWS_301:The API is public; the application asks for keys itself (REQUIRE_API_KEY).
  count = local.url_count

  statement_id           = "url"
  action                 = "lambda:InvokeFunctionUrl"
  function_name          = aws_lambda_alias.live[0].function_name
  qualifier              = aws_lambda_alias.live[0].name
  principal              = "*"
  function_url_auth_type = aws_lambda_function_url.url[0].authorization_type
}

resource "aws_lambda_permission" "url_invokes" {
  #checkov:skip=CKV_AWS_301:The API is public; the application asks for keys itself (REQUIRE_API_KEY).
  #checkov:skip=CKV_AWS_364:The condition lets only the function's own URL invoke it.
  count = local.url_count

  statement_id             = "url-invokes"
  action                   = "lambda:InvokeFunction"
  function_name            = aws_lambda_alias.live[0].function_name
  qualifier                = aws_lambda_alias.live[0].name
  principal                = "*"
  invoked_via_function_url = true
}
