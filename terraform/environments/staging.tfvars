environment = "staging"
region      = "us-east-1"

secrets = ["SECRET_KEY", "API_KEYS", "OPENROUTER_API_KEY"]

settings = {
  RETENTION_DAYS = "30"
}

log_retention_days  = 14
alarm_spend_per_day = 5

# For deployments by GitHub (docs/deploy.md). An account has one provider for GitHub: where
# another environment has made it, name it.
# github_repository        = "OWNER/NAME"
# github_oidc_provider_arn = "arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com"
# state_bucket             = "CHANGE-ME-terraform-state"
