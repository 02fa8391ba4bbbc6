environment = "dev"
region      = "us-east-1"

# Without a model the mock answers: enough to see that all of it works. One on Bedrock needs no key:
# bedrock_models = ["amazon.nova-lite-v1:0"]
secrets = ["SECRET_KEY", "API_KEYS"]

settings = {
  RETENTION_DAYS = "30"
}

log_retention_days   = 7
alarm_spend_per_day  = 2
maintenance_schedule = ""

# For deployments by GitHub (docs/deploy.md):
# github_repository = "OWNER/NAME"
# state_bucket      = "CHANGE-ME-terraform-state"
