variable "project" {
  description = "Id of the Google Cloud project."
  type        = string
}

variable "region" {
  description = "Region of the service, the repository of images and the bucket."
  type        = string
  default     = "us-central1"
}

variable "name" {
  description = "Name of the service, and the beginning of other names."
  type        = string
  default     = "outpost-worker"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,20}[a-z0-9]$", var.name))
    error_message = "6 to 22 lower-case letters, digits and dashes, beginning with a letter."
  }
}

variable "image" {
  description = "Address of the image; empty until it was pushed, and then there is no service yet."
  type        = string
  default     = ""
}

variable "invokers" {
  description = "Who may start workers, such as [\"user:me@example.com\"]. Everybody is refused."
  type        = list(string)

  validation {
    condition = length(var.invokers) > 0 && alltrue([
      for who in var.invokers : can(regex("^(user|group|serviceAccount):[^@ ]+@[^@ ]+$", who))
    ])
    error_message = "At least one user:, group: or serviceAccount:, and not allUsers."
  }
}

variable "deployers" {
  description = "Who may change the service, and create jobs and instances that act as its account."
  type        = list(string)
  default     = []

  validation {
    condition = alltrue([
      for who in var.deployers : can(regex("^(user|group|serviceAccount):[^@ ]+@[^@ ]+$", who))
    ])
    error_message = "Only user:, group: and serviceAccount:."
  }
}

variable "secrets" {
  description = "Environment variable of the container → name of the secret that is made for it."
  type        = map(string)
  default     = {}

  validation {
    condition = alltrue([
      for variable, secret in var.secrets :
      can(regex("^[A-Z_][A-Z0-9_]*$", variable)) && can(regex("^[A-Za-z0-9_-]{1,255}$", secret))
    ])
    error_message = "Names of variables and of secrets, never a value."
  }
}

variable "cpu" {
  description = "vCPUs of a container: 1, 2, 4, 6 or 8."
  type        = number
  default     = 2
}

variable "memory" {
  description = "Memory of a container, such as 4Gi; what is written to its files counts too."
  type        = string
  default     = "4Gi"
}

variable "concurrency" {
  description = "Workers at once in one container."
  type        = number
  default     = 1
}

variable "max_instances" {
  description = "Containers at once: the limit of what it can cost."
  type        = number
  default     = 20

  validation {
    condition     = var.max_instances >= 1 && floor(var.max_instances) == var.max_instances
    error_message = "A whole number of at least 1."
  }
}

variable "keep_days" {
  description = "Days after which claims, results and logs in the bucket are deleted."
  type        = number
  default     = 30

  validation {
    condition     = var.keep_days >= 8
    error_message = "At least 8: a job may run for seven days."
  }
}
