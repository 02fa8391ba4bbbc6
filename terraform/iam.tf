# What the function may do: exactly what it calls. A test runs it under this policy.

data "aws_iam_policy_document" "function" {
  statement {
    sid       = "Records"
    resources = [aws_dynamodb_table.interactions.arn]
    actions = [
      "dynamodb:BatchGetItem",
      "dynamodb:BatchWriteItem",
      "dynamodb:DeleteItem",
      "dynamodb:GetItem",
      "dynamodb:PutItem",
      "dynamodb:Scan", # manage.py purge_interactions
      "dynamodb:UpdateItem",
    ]
  }

  statement {
    sid = "Lists"
    resources = [
      "${aws_dynamodb_table.interactions.arn}/index/user-index",
      "${aws_dynamodb_table.interactions.arn}/index/conversation-index",
      "${aws_dynamodb_table.state.arn}/index/list-index",
    ]
    actions = ["dynamodb:Query"]
  }

  statement {
    sid       = "State"
    resources = [aws_dynamodb_table.state.arn]
    actions = [
      "dynamodb:BatchGetItem",
      "dynamodb:BatchWriteItem",
      "dynamodb:GetItem",
      "dynamodb:PutItem",
      "dynamodb:UpdateItem",
    ]
  }

  # manage.py create_tables compares them with what the code expects.
  statement {
    sid       = "Compare"
    resources = [aws_dynamodb_table.interactions.arn, aws_dynamodb_table.state.arn]
    actions   = ["dynamodb:DescribeTable", "dynamodb:DescribeTimeToLive"]
  }

  # Decrypting needs no permission of its own: the key is SSM's, not a customer's.
  statement {
    sid       = "Secrets"
    resources = [for path in local.parameters : "arn:${local.partition}:ssm:${var.region}:${local.account_id}:parameter${path}"]
    actions   = ["ssm:GetParameters"]
  }

  statement {
    sid       = "Log"
    resources = ["${aws_cloudwatch_log_group.function.arn}:*"]
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
  }
}

data "aws_iam_policy_document" "lambda_assumes" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "function" {
  name               = "${local.name}-function"
  assume_role_policy = data.aws_iam_policy_document.lambda_assumes.json
}

resource "aws_iam_role_policy" "function" {
  name   = "function"
  role   = aws_iam_role.function.id
  policy = data.aws_iam_policy_document.function.json
}
