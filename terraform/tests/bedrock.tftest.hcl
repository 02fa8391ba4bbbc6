# What bedrock_models allows and sets.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  environment  = "dev"
  region       = "us-east-1"
  image_digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
}

run "without_models_there_is_no_right" {
  command = plan

  assert {
    condition     = length(aws_iam_role_policy.bedrock) == 0
    error_message = "Nobody asked for Bedrock."
  }
  assert {
    condition     = length(setintersection(keys(aws_lambda_function.api[0].environment[0].variables), ["BEDROCK_MODEL", "ALLOWED_MODELS"])) == 0
    error_message = "Nobody asked for Bedrock."
  }
}

run "a_model_and_a_profile" {
  command = plan

  override_data {
    target = data.aws_bedrock_inference_profile.each["us.anthropic.claude-sonnet-4-5-20250929-v1:0"]
    values = {
      inference_profile_arn = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-sonnet-4-5-20250929-v1:0"
      models = [
        { model_arn = "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-sonnet-4-5-20250929-v1:0" },
        { model_arn = "arn:aws:bedrock:us-west-2::foundation-model/anthropic.claude-sonnet-4-5-20250929-v1:0" },
      ]
    }
  }

  variables {
    bedrock_models = ["amazon.nova-lite-v1:0", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "deepseek.v3.2"]
  }

  assert {
    condition     = alltrue([for each in data.aws_iam_policy_document.bedrock[0].statement : toset(each.actions) == toset(["bedrock:InvokeModel", "bedrock:InvokeModelWithResponseStream"])])
    error_message = "The function must call models and do nothing else."
  }
  assert {
    condition = toset(data.aws_iam_policy_document.bedrock[0].statement[0].resources) == toset([
      "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-lite-v1:0",
      "arn:aws:bedrock:us-east-1::foundation-model/deepseek.v3.2",
      "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
    ])
    error_message = "Exactly these models must be allowed."
  }
  assert {
    condition = toset(data.aws_iam_policy_document.bedrock[0].statement[1].resources) == toset([
      "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-sonnet-4-5-20250929-v1:0",
      "arn:aws:bedrock:us-west-2::foundation-model/anthropic.claude-sonnet-4-5-20250929-v1:0",
    ])
    error_message = "The profile's model must be allowed in each of its regions."
  }
  assert {
    condition = one(data.aws_iam_policy_document.bedrock[0].statement[1].condition) == {
      test     = "StringEquals"
      variable = "bedrock:InferenceProfileArn"
      values   = tolist(["arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-sonnet-4-5-20250929-v1:0"])
    }
    error_message = "The profile's model must be allowed through the profile alone."
  }
  assert {
    condition     = aws_lambda_function.api[0].environment[0].variables["BEDROCK_MODEL"] == "amazon.nova-lite-v1:0"
    error_message = "The first model must be the default."
  }
  assert {
    condition     = aws_lambda_function.api[0].environment[0].variables["ALLOWED_MODELS"] == "bedrock:amazon.nova-lite-v1:0,bedrock:us.anthropic.claude-sonnet-4-5-20250929-v1:0,bedrock:deepseek.v3.2"
    error_message = "Clients must be able to name the models."
  }
}

run "arns_and_another_region" {
  command = plan

  variables {
    bedrock_models = ["amazon.nova-pro-v1:0", "arn:aws:bedrock:us-west-2:123456789012:provisioned-model/abc123"]
    settings       = { BEDROCK_REGION = "us-west-2", BEDROCK_GUARDRAIL = "abc123:DRAFT" }
  }

  assert {
    condition     = [for each in data.aws_iam_policy_document.bedrock[0].statement : tolist(each.resources) if each.sid == "Guardrail"] == [tolist(["arn:aws:bedrock:us-west-2:123456789012:guardrail/abc123"])]
    error_message = "The guardrail of the settings must be allowed, and no other."
  }

  assert {
    condition = toset(data.aws_iam_policy_document.bedrock[0].statement[0].resources) == toset([
      "arn:aws:bedrock:us-west-2::foundation-model/amazon.nova-pro-v1:0",
      "arn:aws:bedrock:us-west-2:123456789012:provisioned-model/abc123",
    ])
    error_message = "Models are those of BEDROCK_REGION; an ARN is taken as it is."
  }
}

run "the_region_of_the_default_models_arn" {
  command = plan

  variables {
    bedrock_models = ["arn:aws:bedrock:us-west-2:123456789012:provisioned-model/abc123", "amazon.nova-pro-v1:0"]
  }

  assert {
    condition = toset(data.aws_iam_policy_document.bedrock[0].statement[0].resources) == toset([
      "arn:aws:bedrock:us-west-2::foundation-model/amazon.nova-pro-v1:0",
      "arn:aws:bedrock:us-west-2:123456789012:provisioned-model/abc123",
    ])
    error_message = "The function calls the region of BEDROCK_MODEL's ARN."
  }
}

run "a_list_of_models_is_checked" {
  command = plan

  variables {
    bedrock_models = ["amazon.nova-lite-v1:0, amazon.nova-pro-v1:0"]
  }

  expect_failures = [var.bedrock_models]
}
