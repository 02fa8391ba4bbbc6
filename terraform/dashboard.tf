locals {
  service_metric = { for name in ["Requests", "Errors", "Latency", "ProviderErrors", "Fallbacks", "PromptTokens", "CompletionTokens", "CostUSD", "ColdStarts"] :
    name => [local.metrics, name, "Service", local.name]
  }
  function_metric = { for name in ["Duration", "Errors", "Throttles", "ConcurrentExecutions"] :
    name => ["AWS/Lambda", name, "FunctionName", local.name]
  }

  # Title -> the lines of a graph; the braces are CloudWatch's options of a line.
  graphs = {
    "1 Requests" = [
      concat(local.service_metric["Requests"], [{ stat = "Sum" }]),
      concat(local.service_metric["Errors"], [{ stat = "Sum" }]),
      concat([local.server_errors.namespace, local.server_errors.metric], flatten([for name, value in local.server_errors.dimensions : [name, value]]), [{ stat = "Sum" }]),
    ]
    "2 Latency (ms)" = [
      concat(local.service_metric["Latency"], [{ stat = "p50" }]),
      concat(local.service_metric["Latency"], [{ stat = "p99" }]),
      concat(local.function_metric["Duration"], [{ stat = "p99" }]),
    ]
    "3 Errors by code" = [
      [{ expression = "SEARCH('{${local.metrics},Service,Code} MetricName=\"Errors\" Service=\"${local.name}\"', 'Sum')" }],
    ]
    "4 Vendors: latency (ms)" = [
      [{ expression = "SEARCH('{${local.metrics},Service,Provider} MetricName=\"ProviderLatency\" Service=\"${local.name}\"', 'p90')" }],
    ]
    "5 Vendors: failures" = [
      [{ expression = "SEARCH('{${local.metrics},Service,Provider} MetricName=\"ProviderErrors\" Service=\"${local.name}\"', 'Sum')" }],
      concat(local.service_metric["Fallbacks"], [{ stat = "Sum" }]),
    ]
    "6 Cost (US dollars)" = [
      concat(local.service_metric["CostUSD"], [{ stat = "Sum" }]),
    ]
    "7 Tokens" = [
      concat(local.service_metric["PromptTokens"], [{ stat = "Sum" }]),
      concat(local.service_metric["CompletionTokens"], [{ stat = "Sum" }]),
    ]
    "8 Function" = [
      concat(local.function_metric["ConcurrentExecutions"], [{ stat = "Maximum" }]),
      concat(local.function_metric["Throttles"], [{ stat = "Sum" }]),
      concat(local.function_metric["Errors"], [{ stat = "Sum" }]),
      concat(local.service_metric["ColdStarts"], [{ stat = "Sum" }]),
    ]
    "9 Tables: units consumed" = concat([
      for table in [aws_dynamodb_table.interactions.name, aws_dynamodb_table.state.name] : [
        for kind in ["Read", "Write"] : ["AWS/DynamoDB", "Consumed${kind}CapacityUnits", "TableName", table, { stat = "Sum" }]
      ]
    ]...)
  }
}

resource "aws_cloudwatch_dashboard" "main" {
  dashboard_name = local.name
  dashboard_body = jsonencode({
    widgets = [
      for index, title in sort(keys(local.graphs)) : {
        type   = "metric"
        width  = 8
        height = 6
        x      = index % 3 * 8
        y      = floor(index / 3) * 6
        properties = {
          title   = title
          region  = var.region
          view    = "timeSeries"
          period  = 300
          metrics = local.graphs[title]
        }
      }
    ]
  })
}
