# Before the first image is pushed there can be no function, and nothing that calls it. Everything
# else is there after the first apply, the repository to push to among it; the next apply, which
# names an image, adds the rest.

resource "aws_lambda_function" "api" {
  #checkov:skip=CKV_AWS_50:Requests are found by the id that each log line has.
  #checkov:skip=CKV_AWS_115:Reserved concurrency is a variable: small accounts have none to give.
  #checkov:skip=CKV_AWS_116:Only the schedule invokes without waiting, and its next run repeats the work.
  #checkov:skip=CKV_AWS_117:It talks to AWS and to vendors on the internet, with nothing in a VPC.
  #checkov:skip=CKV_AWS_173:The variables are encrypted with Lambda's own key, and hold no secrets.
  #checkov:skip=CKV_AWS_272:Images cannot be signed for Lambda; it runs a digest out of our repository.
  count = var.image_digest == "" ? 0 : 1

  function_name = local.name
  # A changed description makes Terraform publish a new version, which reads the secrets anew.
  description   = "Secrets, version ${var.secrets_version}"
  role          = aws_iam_role.function.arn
  package_type  = "Image"
  image_uri     = "${aws_ecr_repository.api.repository_url}@${var.image_digest}"
  architectures = [var.architecture]
  memory_size   = var.memory_mb
  timeout       = local.timeout_seconds
  publish       = true

  reserved_concurrent_executions = var.reserved_concurrency

  environment {
    variables = merge(
      {
        TABLE_NAME       = aws_dynamodb_table.interactions.name
        STATE_TABLE_NAME = aws_dynamodb_table.state.name
        REQUIRE_API_KEY  = "true"
      },
      { for name, path in local.parameters : "${name}_SSM" => path },
      local.front_variables,
      local.bedrock_variables,
      var.settings,
    )
  }

  # The application writes JSON itself, metrics among it: as text, its lines are left as they are.
  logging_config {
    log_format = "Text"
    log_group  = aws_cloudwatch_log_group.function.name
  }

  depends_on = [aws_iam_role_policy.function, aws_ecr_repository_policy.api]
}

# The version that serves. Terraform publishes versions; scripts/deploy.py points the alias at one
# when it has answered, and back when the API then fails: neither is a difference to Terraform.
resource "aws_lambda_alias" "live" {
  count = length(aws_lambda_function.api)

  name             = "live"
  function_name    = aws_lambda_function.api[0].function_name
  function_version = aws_lambda_function.api[0].version

  lifecycle {
    ignore_changes = [function_version]
  }
}

resource "aws_lambda_provisioned_concurrency_config" "live" {
  count = var.provisioned_concurrency > 0 ? length(aws_lambda_alias.live) : 0

  function_name                     = aws_lambda_alias.live[0].function_name
  qualifier                         = aws_lambda_alias.live[0].name
  provisioned_concurrent_executions = var.provisioned_concurrency
}
