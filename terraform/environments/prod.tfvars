environment = "prod"
region      = "us-east-1"

secrets = ["SECRET_KEY", "API_KEYS", "OPENROUTER_API_KEY", "GEMINI_API_KEY"]

settings = {
  RATE_LIMIT_PER_MINUTE = "60"
  RETENTION_DAYS        = "365"
}

throttling_rate  = 100
throttling_burst = 200

deletion_protection         = true
point_in_time_recovery_days = 35
log_retention_days          = 90
alarm_spend_per_day         = 50

# alarm_email = "operators@example.org"

# A custom domain. Pages that may call the API from browsers: CORS_ALLOWED_ORIGINS in settings.
# domain_name     = "chat.example.org"
# certificate_arn = "arn:aws:acm:us-east-1:123456789012:certificate/…"

# Where another environment of this account and region has made the role for access logs:
# gateway_log_role = false

# For deployments by GitHub (docs/deploy.md). An account has one provider for GitHub: where
# another environment has made it, name it.
# github_repository        = "OWNER/NAME"
# github_oidc_provider_arn = "arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com"
# state_bucket             = "CHANGE-ME-terraform-state"
