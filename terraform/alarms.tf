# docs/operations.md says what to do about each.

resource "aws_sns_topic" "alarms" {
  #checkov:skip=CKV_AWS_26:Alarms cannot publish to a topic under SNS's own key, and hold nothing secret.
  name = "${local.name}-alarms"
}

resource "aws_sns_topic_subscription" "email" {
  count = var.alarm_email == "" ? 0 : 1

  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = var.alarm_email
}

locals {
  # The application's own metrics: log lines in CloudWatch's embedded format.
  metrics = "ServerlessChatApi"
  service = { Service = local.name }

  alarms = {
    errors = {
      description = "The function crashed or ran out of time, or a scheduled command failed."
      namespace   = "AWS/Lambda"
      metric      = "Errors"
      dimensions  = { FunctionName = local.name }
      statistic   = "Sum"
      period      = 300
      above       = 0
    }
    throttles = {
      description = "Lambda refused to run the function: no concurrency left."
      namespace   = "AWS/Lambda"
      metric      = "Throttles"
      dimensions  = { FunctionName = local.name }
      statistic   = "Sum"
      period      = 300
      above       = 0
    }
    duration = {
      description = "One request in a hundred takes nearly as long as there is time."
      namespace   = "AWS/Lambda"
      metric      = "Duration"
      dimensions  = { FunctionName = local.name }
      statistic   = "p99"
      period      = 900
      above       = local.timeout_seconds * 900 # ms: nine tenths of it
    }
    server-errors = {
      description = "The API answered with 5xx."
      namespace   = local.server_errors.namespace
      metric      = local.server_errors.metric
      dimensions  = local.server_errors.dimensions
      statistic   = "Sum"
      period      = 300
      above       = 5
    }
    provider-errors = {
      description = "Calls of vendors failed."
      namespace   = local.metrics
      metric      = "ProviderErrors"
      dimensions  = local.service
      statistic   = "Sum"
      period      = 300
      above       = 10
    }
    spend = {
      description = "Models cost more within a day than they should."
      namespace   = local.metrics
      metric      = "CostUSD"
      dimensions  = local.service
      statistic   = "Sum"
      period      = 86400
      above       = var.alarm_spend_per_day
    }
  }

  # Each table and index that could be throttled, as CloudWatch names it.
  throttled = {
    interactions  = { TableName = aws_dynamodb_table.interactions.name }
    state         = { TableName = aws_dynamodb_table.state.name }
    users         = { TableName = aws_dynamodb_table.interactions.name, GlobalSecondaryIndexName = "user-index" }
    conversations = { TableName = aws_dynamodb_table.interactions.name, GlobalSecondaryIndexName = "conversation-index" }
  }
  throttle_events = merge([
    for name, dimensions in local.throttled : {
      for kind in ["Read", "Write"] : "${lower(kind)}_${name}" => { metric = "${kind}ThrottleEvents", dimensions = dimensions }
    }
  ]...)
}

resource "aws_cloudwatch_metric_alarm" "each" {
  for_each = local.alarms

  alarm_name          = "${local.name}-${each.key}"
  alarm_description   = "${each.value.description} See docs/operations.md."
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = startswith(each.value.statistic, "p") ? null : each.value.statistic
  extended_statistic  = startswith(each.value.statistic, "p") ? each.value.statistic : null
  period              = each.value.period
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.above
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
}

resource "aws_cloudwatch_metric_alarm" "dynamodb_throttles" {
  alarm_name          = "${local.name}-dynamodb-throttles"
  alarm_description   = "DynamoDB refused reads or writes as too many. See docs/operations.md."
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]

  metric_query {
    id          = "throttles"
    expression  = "SUM(FILL(METRICS(), 0))"
    label       = "throttled"
    return_data = true
  }

  dynamic "metric_query" {
    for_each = local.throttle_events

    content {
      id = metric_query.key

      metric {
        namespace   = "AWS/DynamoDB"
        metric_name = metric_query.value.metric
        dimensions  = metric_query.value.dimensions
        stat        = "Sum"
        period      = 300
      }
    }
  }
}
