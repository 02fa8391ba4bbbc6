locals {
  # COMMANDS in chatproject/lambda_handler.py.
  commands = [
    "check",
    "check_providers",
    "create_api_key",
    "create_tables",
    "doctor",
    "erase_user",
    "list_api_keys",
    "purge_interactions",
    "revoke_api_key",
    "rotate_api_key",
    "usage_report",
  ]
}

data "aws_iam_policy_document" "scheduler_assumes" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["scheduler.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account_id]
    }
  }
}

data "aws_iam_policy_document" "scheduler" {
  statement {
    actions   = ["lambda:InvokeFunction"]
    resources = ["arn:${local.partition}:lambda:${var.region}:${local.account_id}:function:${local.name}:live"]
  }
}

resource "aws_iam_role" "scheduler" {
  name               = "${local.name}-scheduler"
  assume_role_policy = data.aws_iam_policy_document.scheduler_assumes.json
}

resource "aws_iam_role_policy" "scheduler" {
  name   = "scheduler"
  role   = aws_iam_role.scheduler.id
  policy = data.aws_iam_policy_document.scheduler.json
}

resource "aws_scheduler_schedule" "maintenance" {
  #checkov:skip=CKV_AWS_297:Encrypted with EventBridge's own key. It holds the name of a command.
  count = var.maintenance_schedule == "" ? 0 : length(aws_lambda_alias.live)

  name                = "${local.name}-maintenance"
  schedule_expression = var.maintenance_schedule

  flexible_time_window {
    mode                      = "FLEXIBLE"
    maximum_window_in_minutes = 15
  }

  target {
    arn      = aws_lambda_alias.live[0].arn
    role_arn = aws_iam_role.scheduler.arn
    # The event that runs a management command (chatproject/lambda_handler.py). The scheduler drops
    # answers, so a failure is an error: Lambda runs the command twice more, and counts for the alarm.
    input = jsonencode({ manage = var.maintenance_command, scheduled = true })

    retry_policy {
      maximum_retry_attempts       = 2
      maximum_event_age_in_seconds = 3600
    }
  }
}
