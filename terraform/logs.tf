resource "aws_cloudwatch_log_group" "function" {
  #checkov:skip=CKV_AWS_158:Encrypted with CloudWatch's own key. Logs hold no prompts, answers or keys.
  #checkov:skip=CKV_AWS_338:How long logs are kept is a variable: they name users.
  name              = "/aws/lambda/${local.name}"
  retention_in_days = var.log_retention_days
}

# Below this prefix the gateway's permission to write does not grow with the number of groups.
resource "aws_cloudwatch_log_group" "access" {
  #checkov:skip=CKV_AWS_158:Encrypted with CloudWatch's own key.
  #checkov:skip=CKV_AWS_338:How long logs are kept is a variable: they name addresses.
  count = var.front == "url" ? 0 : 1

  name              = "/aws/vendedlogs/${local.name}"
  retention_in_days = var.log_retention_days
}
