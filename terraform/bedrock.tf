# Models of Bedrock, which the function calls as its own role, without a key.

locals {
  # As the function finds it: that of BEDROCK_MODEL, if it is an ARN.
  bedrock_region = lookup(
    var.settings, "BEDROCK_REGION",
    try(regex("^arn:[^:]+:[^:]+:([a-z0-9-]+):", var.bedrock_models[0])[0], var.region),
  )
  bedrock_actions = ["bedrock:InvokeModel", "bedrock:InvokeModelWithResponseStream"]

  # A profile's id begins with a geography, such as us. or global.; a model's with its vendor.
  bedrock_profiles = toset([
    for model in var.bedrock_models : model
    if can(regex("^((global|apac|us-gov|[a-z]{2})\\.|arn:[^/]+:(application-)?inference-profile/)", model))
  ])
  bedrock_model_arns = [
    for model in setsubtract(var.bedrock_models, local.bedrock_profiles) :
    startswith(model, "arn:") ? model : "arn:${local.partition}:bedrock:${local.bedrock_region}::foundation-model/${model}"
  ]

  # BEDROCK_GUARDRAIL is an id or an ARN, then a colon and the version.
  guardrails = [
    for id in regexall("^(.+):[^:]+$", lookup(var.settings, "BEDROCK_GUARDRAIL", "")) :
    startswith(id[0], "arn:") ? id[0] : "arn:${local.partition}:bedrock:${local.bedrock_region}:${local.account_id}:guardrail/${id[0]}"
  ]

  # The first model is the default. Clients may name the others.
  bedrock_variables = length(var.bedrock_models) == 0 ? {} : {
    BEDROCK_MODEL  = var.bedrock_models[0]
    ALLOWED_MODELS = join(",", [for model in var.bedrock_models : "bedrock:${model}"])
  }
}

# Knows the regions to which a profile may send a request.
data "aws_bedrock_inference_profile" "each" {
  for_each = local.bedrock_profiles

  inference_profile_id = each.key
  region               = local.bedrock_region
}

# A call through a profile needs the profile and its model in each of its regions.
# https://docs.aws.amazon.com/bedrock/latest/userguide/inference-profiles-prereq.html
data "aws_iam_policy_document" "bedrock" {
  count = length(var.bedrock_models) > 0 ? 1 : 0

  statement {
    sid       = "Models"
    actions   = local.bedrock_actions
    resources = concat(local.bedrock_model_arns, values(data.aws_bedrock_inference_profile.each)[*].inference_profile_arn)
  }

  dynamic "statement" {
    for_each = data.aws_bedrock_inference_profile.each

    content {
      actions   = local.bedrock_actions
      resources = statement.value.models[*].model_arn

      condition {
        test     = "StringEquals"
        variable = "bedrock:InferenceProfileArn"
        values   = [statement.value.inference_profile_arn]
      }
    }
  }

  # https://docs.aws.amazon.com/bedrock/latest/userguide/guardrails-permissions.html
  dynamic "statement" {
    for_each = local.guardrails

    content {
      sid       = "Guardrail"
      actions   = ["bedrock:ApplyGuardrail"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_role_policy" "bedrock" {
  count = length(data.aws_iam_policy_document.bedrock)

  name   = "bedrock"
  role   = aws_iam_role.function.id
  policy = data.aws_iam_policy_document.bedrock[0].json
}
