# Values that are refused before anything is made.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  environment  = "dev"
  region       = "eu-west-1"
  image_digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
}

run "a_command_that_the_function_does_not_run" {
  command = plan

  variables {
    maintenance_command = ["purge_interaction", "--yes"]
  }

  expect_failures = [var.maintenance_command]
}

run "no_command" {
  command = plan

  variables {
    maintenance_command = []
  }

  expect_failures = [var.maintenance_command]
}

run "more_provisioned_than_reserved" {
  command = plan

  variables {
    provisioned_concurrency = 5
    reserved_concurrency    = 2
  }

  expect_failures = [var.provisioned_concurrency]
}

run "provisioned_without_reserved" {
  command = plan

  variables {
    maintenance_command     = ["purge_interactions", "--older-than", "90d", "--yes"]
    provisioned_concurrency = 5
  }

  assert {
    condition     = one(aws_lambda_provisioned_concurrency_config.live[*]).provisioned_concurrent_executions == 5
    error_message = "Without reserved_concurrency, any number may be provisioned."
  }
}
