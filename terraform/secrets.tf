# Secrets are put into SSM by hand (make secret): Terraform knows their names alone, so that no
# value gets into a plan or the state.

locals {
  # SECRETS in chatproject/env_sources.py.
  secret_names = [
    "OPENROUTER_API_KEY",
    "GEMINI_API_KEY",
    "OPENAI_API_KEY",
    "OPENAI_HEADERS",
    "AWS_BEARER_TOKEN_BEDROCK",
    "API_KEY",
    "API_KEYS",
    "SECRET_KEY",
    "SECRET_KEY_FALLBACKS",
    "OTEL_EXPORTER_OTLP_HEADERS",
  ]

  parameters = { for name in var.secrets : name => "/${local.name}/${name}" }
}
