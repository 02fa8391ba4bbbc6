# --- Where and what -------------------------------------------------------------------------------

variable "environment" {
  description = "Name of the deployment. Everything is called serverless-chat-api-<environment>."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,19}$", var.environment))
    error_message = "Must be 2 to 20 lower-case letters, digits and hyphens, a letter first."
  }
}

variable "region" {
  description = "AWS region of everything, such as eu-west-1."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "Must be the name of a region, such as eu-west-1."
  }
}

variable "image_digest" {
  description = "Image of the function in the repository, as sha256:…; empty as long as there is none, and then there is no function. scripts/deploy.py gives it."
  type        = string

  validation {
    condition     = var.image_digest == "" || can(regex("^sha256:[0-9a-f]{64}$", var.image_digest))
    error_message = "Must be sha256: and 64 hexadecimal digits, or empty."
  }
}

# --- The function ---------------------------------------------------------------------------------

variable "architecture" {
  description = "Processor of the function, for which the image is built: arm64 (a fifth cheaper) or x86_64."
  type        = string
  default     = "arm64"

  validation {
    condition     = contains(["arm64", "x86_64"], var.architecture)
    error_message = "Must be arm64 or x86_64."
  }
}

variable "memory_mb" {
  description = "Memory of the function; processor time is proportional to it."
  type        = number
  default     = 512

  validation {
    condition     = var.memory_mb >= 256 && var.memory_mb <= 10240 && floor(var.memory_mb) == var.memory_mb
    error_message = "Must be a whole number from 256 to 10240."
  }
}

variable "timeout_seconds" {
  description = "Longest run of the function; null: as long as the front waits. The deadlines of requests follow: two seconds less, to settle and to respond."
  type        = number
  default     = null

  validation {
    condition     = var.timeout_seconds == null ? true : var.timeout_seconds >= 10 && var.timeout_seconds <= 900 && floor(var.timeout_seconds) == var.timeout_seconds
    error_message = "Must be a whole number from 10 to 900, or null."
  }
}

variable "reserved_concurrency" {
  description = "Concurrent executions set aside for the function, which are also its most; -1: none set aside. AWS keeps 100 for the rest of the account."
  type        = number
  default     = -1

  validation {
    condition     = var.reserved_concurrency == -1 || var.reserved_concurrency >= 1
    error_message = "Must be -1, or 1 or more."
  }
}

variable "provisioned_concurrency" {
  description = "Executions that are kept started, at a price by the hour; 0: none."
  type        = number
  default     = 0

  validation {
    condition     = var.provisioned_concurrency >= 0
    error_message = "Must be 0 or more."
  }

  validation {
    condition     = var.reserved_concurrency == -1 || var.provisioned_concurrency <= var.reserved_concurrency
    error_message = "Must be reserved_concurrency at most, unless that is -1."
  }
}

variable "settings" {
  description = "Further variables of the application, as docs/configuration.md explains them: LLM_PROVIDER, RATE_LIMIT_PER_MINUTE, RETENTION_DAYS, … No secrets."
  type        = map(string)
  default     = {}

  validation {
    condition     = length(setintersection(keys(var.settings), local.secret_names)) == 0
    error_message = "Secrets do not belong here, where they would get into the state: use make secret, and the variable secrets."
  }
}

variable "secrets" {
  description = "Which secrets are in SSM, as SecureString /serverless-chat-api-<environment>/<NAME>; make secret puts them there."
  type        = set(string)
  default     = ["SECRET_KEY", "API_KEYS"]

  validation {
    condition     = length(setsubtract(var.secrets, local.secret_names)) == 0 && contains(var.secrets, "SECRET_KEY")
    error_message = "Must be SECRET_KEY and any of the other secrets that chatproject/env_sources.py knows."
  }
}

variable "secrets_version" {
  description = "Increase it when a secret has changed: a version of the function reads its secrets only when it starts."
  type        = number
  default     = 1

  validation {
    condition     = floor(var.secrets_version) == var.secrets_version
    error_message = "Must be a whole number."
  }
}

# --- Models of Bedrock ----------------------------------------------------------------------------

variable "bedrock_models" {
  description = "Models of Bedrock that the function may call, the default first: ids, inference profiles (us.…, eu.…, global.…) or ARNs. Sets BEDROCK_MODEL and ALLOWED_MODELS, which settings may override."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for model in var.bedrock_models : can(regex("^[a-z0-9][A-Za-z0-9.:/_-]+$", model))])
    error_message = "Must be ids or ARNs of models and inference profiles."
  }
}

# --- The API --------------------------------------------------------------------------------------

variable "front" {
  description = "What answers HTTP: rest (a REST API, which streams), url (a function URL, which streams) or http (an HTTP API, which waits for the whole answer, 30 seconds at most)."
  type        = string
  default     = "rest"

  validation {
    condition     = contains(["rest", "url", "http"], var.front)
    error_message = "Must be rest, url or http."
  }
}

variable "gateway_log_role" {
  description = "Make the role with which REST APIs write their access logs. The account has one for each region: false where it is made elsewhere, such as in another environment."
  type        = bool
  default     = true
}

variable "throttling_rate" {
  description = "Requests a second that the gateway lets through, on average. A function URL has no such limit."
  type        = number
  default     = 50

  validation {
    condition     = var.throttling_rate >= 1 && var.throttling_rate <= 10000
    error_message = "Must be from 1 to 10000."
  }
}

variable "throttling_burst" {
  description = "Requests that the gateway lets through at once."
  type        = number
  default     = 100

  validation {
    condition     = var.throttling_burst >= 1 && var.throttling_burst <= 5000
    error_message = "Must be from 1 to 5000."
  }
}

variable "domain_name" {
  description = "A custom domain for the API; empty: AWS's address."
  type        = string
  default     = ""

  validation {
    condition     = var.domain_name == "" || can(regex("^([a-z0-9-]+\\.)+[a-z]{2,}$", var.domain_name))
    error_message = "Must be a host name such as chat.example.org, or empty."
  }

  validation {
    condition     = var.domain_name == "" || var.front != "url"
    error_message = "A function URL has no custom domain: use front rest or http."
  }
}

variable "certificate_arn" {
  description = "Certificate for domain_name, in Certificate Manager of the same region."
  type        = string
  default     = ""

  validation {
    condition     = (var.certificate_arn == "") == (var.domain_name == "") && (var.certificate_arn == "" || can(regex("^arn:[a-z-]+:acm:", var.certificate_arn)))
    error_message = "Must be the ARN of a certificate if there is a domain_name, and empty if not."
  }
}

# --- Data -----------------------------------------------------------------------------------------

variable "interactions_table" {
  description = "Name of the table of records, if it is a restored one (docs/operations.md); empty: serverless-chat-api-<environment>-interactions."
  type        = string
  default     = ""

  validation {
    condition     = var.interactions_table == "" || can(regex("^[A-Za-z0-9_.-]{3,255}$", var.interactions_table))
    error_message = "Must be the name of a table, or empty."
  }
}

variable "deletion_protection" {
  description = "Refuse to delete the tables, and the repository as long as it holds images."
  type        = bool
  default     = false
}

variable "point_in_time_recovery_days" {
  description = "Days back to which the table of records can be restored, to the second; 0: not."
  type        = number
  default     = 0

  validation {
    condition     = var.point_in_time_recovery_days >= 0 && var.point_in_time_recovery_days <= 35
    error_message = "Must be from 0 to 35."
  }
}

variable "log_retention_days" {
  description = "Days for which logs are kept."
  type        = number
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731], var.log_retention_days)
    error_message = "Must be one of the numbers that CloudWatch knows: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731."
  }
}

# --- Operation ------------------------------------------------------------------------------------

variable "alarm_email" {
  description = "Address that gets the alarms, once it has confirmed that; empty: nobody subscribed."
  type        = string
  default     = ""

  validation {
    condition     = var.alarm_email == "" || can(regex("^[^@ ]+@[^@ ]+$", var.alarm_email))
    error_message = "Must be an e-mail address, or empty."
  }
}

variable "alarm_spend_per_day" {
  description = "US dollars for models within a day, above which there is an alarm."
  type        = number
  default     = 10

  validation {
    condition     = var.alarm_spend_per_day > 0
    error_message = "Must be more than 0."
  }
}

variable "maintenance_command" {
  description = "Management command that the schedule runs, with its arguments: one that chatproject/lambda_handler.py allows."
  type        = list(string)
  default     = ["check"]

  validation {
    condition     = contains(local.commands, try(var.maintenance_command[0], ""))
    error_message = "Must begin with one of ${join(", ", local.commands)}."
  }
}

variable "maintenance_schedule" {
  description = "When, as EventBridge Scheduler writes it (in UTC); empty: never."
  type        = string
  default     = "cron(0 3 * * ? *)"

  validation {
    condition     = var.maintenance_schedule == "" || can(regex("^(cron|rate)\\(.+\\)$", var.maintenance_schedule))
    error_message = "Must be cron(…) or rate(…), or empty."
  }
}

# --- GitHub ---------------------------------------------------------------------------------------

variable "github_repository" {
  description = "Repository that may deploy, as OWNER/NAME; for one made after 2026-07-15 with ids: OWNER@ID/NAME@ID. Empty: none."
  type        = string
  default     = ""

  validation {
    condition     = var.github_repository == "" || can(regex("^[A-Za-z0-9_.-]+(@[0-9]+)?/[A-Za-z0-9_.-]+(@[0-9]+)?$", var.github_repository))
    error_message = "Must be OWNER/NAME or OWNER@ID/NAME@ID, or empty."
  }
}

variable "github_oidc_provider_arn" {
  description = "The account's identity provider for GitHub, of which there is only one; empty: make it here."
  type        = string
  default     = ""

  validation {
    condition     = var.github_oidc_provider_arn == "" || can(regex(":oidc-provider/token.actions.githubusercontent.com$", var.github_oidc_provider_arn))
    error_message = "Must be the ARN of the provider token.actions.githubusercontent.com, or empty."
  }
}

variable "state_bucket" {
  description = "Bucket of the state (as in environments/*.s3.tfbackend), for GitHub's role."
  type        = string
  default     = ""

  validation {
    condition     = var.github_repository == "" || var.state_bucket != ""
    error_message = "Must be set if there is a github_repository."
  }
}
