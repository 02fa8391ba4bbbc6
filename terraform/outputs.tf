output "url" {
  description = "Where the API answers; null as long as there is no image, unless it is known before."
  value       = var.domain_name == "" ? local.url : "https://${var.domain_name}"
}

output "response_mode" {
  description = "How answers leave the function: streaming, as they are written, or buffered, when they are whole."
  value       = local.response_mode
}

output "domain_target" {
  description = "What the DNS record of domain_name (an alias or CNAME) must point at."
  value = one(concat(
    aws_api_gateway_domain_name.rest[*].regional_domain_name,
    aws_apigatewayv2_domain_name.http[*].domain_name_configuration[0].target_domain_name,
  ))
}

output "region" {
  description = "The region of everything."
  value       = var.region
}

output "architecture" {
  description = "The processor for which the image must be built."
  value       = var.architecture
}

output "repository_url" {
  description = "Where the image is pushed."
  value       = aws_ecr_repository.api.repository_url
}

output "function_name" {
  description = "The function."
  value       = local.name
}

output "function_version" {
  description = "The newest version of the function; null as long as there is no image."
  value       = one(aws_lambda_function.api[*].version)
}

output "tables" {
  description = "The DynamoDB tables."
  value       = [aws_dynamodb_table.interactions.name, aws_dynamodb_table.state.name]
}

output "secret_parameters" {
  description = "SSM parameters that must exist, as SecureString, before the function can start."
  value       = values(local.parameters)
}

output "alarm_topic_arn" {
  description = "SNS topic of the alarms, for further subscriptions."
  value       = aws_sns_topic.alarms.arn
}

output "dashboard_url" {
  description = "The dashboard in CloudWatch."
  value       = "https://${var.region}.console.aws.amazon.com/cloudwatch/home?region=${var.region}#dashboards/dashboard/${local.name}"
}

output "github_role_arn" {
  description = "Role for GitHub's workflow, as variable AWS_ROLE_ARN of the environment there; null without github_repository."
  value       = one(aws_iam_role.github[*].arn)
}
