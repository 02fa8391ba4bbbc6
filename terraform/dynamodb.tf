# As the models in chat/storage/dynamodb/tables.py; a test holds the two together.
#
# Both are encrypted at rest by DynamoDB's own key, which costs nothing.

resource "aws_dynamodb_table" "interactions" {
  #checkov:skip=CKV_AWS_119:Encrypted with DynamoDB's own key; a customer's would cost for each call.
  #checkov:skip=CKV_AWS_28:Point-in-time recovery is a variable, on in prod.
  name                        = coalesce(var.interactions_table, "${local.name}-interactions")
  billing_mode                = "PAY_PER_REQUEST"
  deletion_protection_enabled = var.deletion_protection
  hash_key                    = "interaction_id"

  attribute {
    name = "interaction_id"
    type = "S"
  }

  attribute {
    name = "owner_user"
    type = "S"
  }

  attribute {
    name = "conversation_id"
    type = "S"
  }

  attribute {
    name = "created_at"
    type = "S"
  }

  global_secondary_index {
    name            = "user-index"
    hash_key        = "owner_user"
    range_key       = "created_at"
    projection_type = "KEYS_ONLY"
  }

  global_secondary_index {
    name            = "conversation-index"
    hash_key        = "conversation_id"
    range_key       = "created_at"
    projection_type = "KEYS_ONLY"
  }

  ttl {
    attribute_name = "expires_at"
    enabled        = true
  }

  point_in_time_recovery {
    enabled                 = var.point_in_time_recovery_days > 0
    recovery_period_in_days = var.point_in_time_recovery_days > 0 ? var.point_in_time_recovery_days : null
  }
}

# API keys, counts of usage, rate counters and cached answers.
resource "aws_dynamodb_table" "state" {
  #checkov:skip=CKV_AWS_119:Encrypted with DynamoDB's own key; a customer's would cost for each call.
  #checkov:skip=CKV_AWS_28:Point-in-time recovery is a variable, on in prod.
  name                        = "${local.name}-state"
  billing_mode                = "PAY_PER_REQUEST"
  deletion_protection_enabled = var.deletion_protection
  hash_key                    = "pk"

  attribute {
    name = "pk"
    type = "S"
  }

  attribute {
    name = "listed_in"
    type = "S"
  }

  global_secondary_index {
    name            = "list-index"
    hash_key        = "listed_in"
    range_key       = "pk"
    projection_type = "KEYS_ONLY"
  }

  ttl {
    attribute_name = "expires_at"
    enabled        = true
  }

  point_in_time_recovery {
    enabled                 = var.point_in_time_recovery_days > 0
    recovery_period_in_days = var.point_in_time_recovery_days > 0 ? var.point_in_time_recovery_days : null
  }
}
