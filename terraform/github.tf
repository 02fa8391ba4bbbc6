# GitHub's workflow may deploy code and configuration. It may not change roles and their policies, so
# that it cannot give itself or the function more than they have, nor delete a table, nor read a
# secret: such changes are applied by a person (make deploy), and stop the workflow until then.

locals {
  github        = var.github_repository == "" ? 0 : 1
  function_arn  = "arn:${local.partition}:lambda:${var.region}:${local.account_id}:function:${local.name}"
  provider_host = "token.actions.githubusercontent.com"
  api_path = {
    rest = one([for id in aws_api_gateway_rest_api.rest[*].id : "restapis/${id}"])
    url  = null
    http = one([for id in aws_apigatewayv2_api.http[*].id : "apis/${id}"])
  }[var.front]
}

resource "aws_iam_openid_connect_provider" "github" {
  count = var.github_oidc_provider_arn == "" ? local.github : 0

  url            = "https://${local.provider_host}"
  client_id_list = ["sts.amazonaws.com"]
}

data "aws_iam_policy_document" "github_assumes" {
  count = local.github

  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [coalesce(var.github_oidc_provider_arn, one(aws_iam_openid_connect_provider.github[*].arn))]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.provider_host}:aud"
      values   = ["sts.amazonaws.com"]
    }

    # Only jobs of the environment, which GitHub can let wait for an approval.
    condition {
      test     = "StringEquals"
      variable = "${local.provider_host}:sub"
      values   = ["repo:${var.github_repository}:environment:${var.environment}"]
    }
  }
}

data "aws_iam_policy_document" "github" {
  #checkov:skip=CKV_AWS_356:Actions that AWS does not limit to resources, most of them of reading.
  count = local.github

  statement {
    sid = "State"
    actions = [
      "s3:GetObject",
      "s3:PutObject",
    ]
    resources = ["arn:${local.partition}:s3:::${var.state_bucket}/${local.name}.tfstate*"]
  }

  statement {
    sid       = "Unlock"
    actions   = ["s3:DeleteObject"]
    resources = ["arn:${local.partition}:s3:::${var.state_bucket}/${local.name}.tfstate.tflock"]
  }

  statement {
    sid       = "StateBucket"
    actions   = ["s3:ListBucket"]
    resources = ["arn:${local.partition}:s3:::${var.state_bucket}"]
  }

  statement {
    sid = "Image"
    actions = [
      "ecr:BatchCheckLayerAvailability",
      "ecr:BatchGetImage",
      "ecr:CompleteLayerUpload",
      "ecr:DescribeImages",
      "ecr:DescribeRepositories",
      "ecr:GetDownloadUrlForLayer",
      "ecr:GetLifecyclePolicy",
      "ecr:GetRepositoryPolicy",
      "ecr:InitiateLayerUpload",
      "ecr:ListTagsForResource",
      "ecr:PutImage",
      "ecr:PutLifecyclePolicy",
      "ecr:UploadLayerPart",
    ]
    resources = [aws_ecr_repository.api.arn]
  }

  statement {
    sid = "Function"
    actions = [
      "lambda:AddPermission",
      "lambda:CreateAlias",
      "lambda:CreateFunction",
      "lambda:CreateFunctionUrlConfig",
      "lambda:DeleteFunctionConcurrency",
      "lambda:DeleteProvisionedConcurrencyConfig",
      "lambda:GetAlias",
      "lambda:GetFunction",
      "lambda:GetFunctionCodeSigningConfig",
      "lambda:GetFunctionConfiguration",
      "lambda:GetFunctionUrlConfig",
      "lambda:GetPolicy",
      "lambda:GetProvisionedConcurrencyConfig",
      "lambda:InvokeFunction",
      "lambda:ListTags",
      "lambda:ListVersionsByFunction",
      "lambda:PublishVersion",
      "lambda:PutFunctionConcurrency",
      "lambda:PutProvisionedConcurrencyConfig",
      "lambda:TagResource",
      "lambda:UpdateAlias",
      "lambda:UpdateFunctionCode",
      "lambda:UpdateFunctionConfiguration",
      "lambda:UpdateFunctionUrlConfig",
    ]
    resources = [local.function_arn, "${local.function_arn}:*"]
  }

  dynamic "statement" {
    for_each = local.api_path == null ? [] : [local.api_path]

    content {
      sid     = "Api"
      actions = ["apigateway:GET", "apigateway:PATCH", "apigateway:POST", "apigateway:PUT"]
      resources = [
        for path in [statement.value, "${statement.value}/*", "domainnames/*", "tags/*"] :
        "arn:${local.partition}:apigateway:${var.region}::/${path}"
      ]
    }
  }

  # A changed REST API is deployed anew, and the deployment before it deleted.
  dynamic "statement" {
    for_each = aws_api_gateway_rest_api.rest

    content {
      sid       = "Deployments"
      actions   = ["apigateway:DELETE"]
      resources = ["arn:${local.partition}:apigateway:${var.region}::/restapis/${statement.value.id}/deployments/*"]
    }
  }

  dynamic "statement" {
    for_each = aws_api_gateway_account.logs

    content {
      sid       = "LogRole"
      actions   = ["apigateway:GET"]
      resources = ["arn:${local.partition}:apigateway:${var.region}::/account"]
    }
  }

  dynamic "statement" {
    for_each = length(local.bedrock_profiles) > 0 ? [1] : []

    content {
      sid       = "Profiles"
      actions   = ["bedrock:GetInferenceProfile"]
      resources = values(data.aws_bedrock_inference_profile.each)[*].inference_profile_arn
    }
  }

  statement {
    sid = "Tables"
    actions = [
      "dynamodb:DescribeContinuousBackups",
      "dynamodb:DescribeTable",
      "dynamodb:DescribeTimeToLive",
      "dynamodb:ListTagsOfResource",
      "dynamodb:TagResource",
      "dynamodb:UpdateContinuousBackups",
      "dynamodb:UpdateTable",
      "dynamodb:UpdateTimeToLive",
    ]
    resources = [aws_dynamodb_table.interactions.arn, aws_dynamodb_table.state.arn]
  }

  statement {
    sid = "Logs"
    actions = [
      "logs:ListTagsForResource",
      "logs:PutRetentionPolicy",
      "logs:TagResource",
    ]
    resources = [
      for group in concat([aws_cloudwatch_log_group.function.arn], aws_cloudwatch_log_group.access[*].arn) : "${group}*"
    ]
  }

  statement {
    sid = "Alarms"
    actions = [
      "cloudwatch:DeleteAlarms",
      "cloudwatch:DescribeAlarms",
      "cloudwatch:GetDashboard",
      "cloudwatch:ListTagsForResource",
      "cloudwatch:PutDashboard",
      "cloudwatch:PutMetricAlarm",
      "cloudwatch:TagResource",
    ]
    resources = [
      "arn:${local.partition}:cloudwatch:${var.region}:${local.account_id}:alarm:${local.name}-*",
      "arn:${local.partition}:cloudwatch::${local.account_id}:dashboard/${local.name}",
    ]
  }

  statement {
    sid = "Topic"
    actions = [
      "sns:GetSubscriptionAttributes",
      "sns:GetTopicAttributes",
      "sns:ListTagsForResource",
      "sns:Subscribe",
    ]
    resources = ["${aws_sns_topic.alarms.arn}*"]
  }

  statement {
    sid = "Schedule"
    actions = [
      "scheduler:CreateSchedule",
      "scheduler:GetSchedule",
      "scheduler:UpdateSchedule",
    ]
    resources = ["arn:${local.partition}:scheduler:${var.region}:${local.account_id}:schedule/default/${local.name}-*"]
  }

  statement {
    sid = "ReadRoles"
    actions = [
      "iam:GetOpenIDConnectProvider",
      "iam:GetRole",
      "iam:GetRolePolicy",
      "iam:ListAttachedRolePolicies",
      "iam:ListRolePolicies",
    ]
    resources = [
      "arn:${local.partition}:iam::${local.account_id}:oidc-provider/${local.provider_host}",
      "arn:${local.partition}:iam::${local.account_id}:role/${local.name}-*",
    ]
  }

  statement {
    sid       = "HandOverRoles"
    actions   = ["iam:PassRole"]
    resources = [aws_iam_role.function.arn, aws_iam_role.scheduler.arn]

    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["lambda.amazonaws.com", "scheduler.amazonaws.com"]
    }
  }

  # API Gateway needs the last five to set up access logs.
  statement {
    sid = "Everywhere"
    actions = [
      "ecr:GetAuthorizationToken",
      "logs:DescribeLogGroups",
      "logs:CreateLogDelivery",
      "logs:DescribeResourcePolicies",
      "logs:GetLogDelivery",
      "logs:ListLogDeliveries",
      "logs:UpdateLogDelivery",
    ]
    resources = ["*"]
  }
}

resource "aws_iam_role" "github" {
  count = local.github

  name               = "${local.name}-github"
  assume_role_policy = data.aws_iam_policy_document.github_assumes[0].json
}

resource "aws_iam_role_policy" "github" {
  count = local.github

  name   = "deploy"
  role   = aws_iam_role.github[0].id
  policy = data.aws_iam_policy_document.github[0].json
}
