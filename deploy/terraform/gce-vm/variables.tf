variable "project" {
  description = "Id of the Google Cloud project."
  type        = string
}

variable "region" {
  description = "Region of the machine's subnetwork."
  type        = string
  default     = "us-central1"
}

variable "zone" {
  description = "Zone of the machine; in the region."
  type        = string
  default     = "us-central1-a"
}

variable "name" {
  description = "Name of the machine, and of the outpost."
  type        = string
  default     = "outpost-worker"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,40}[a-z0-9]$", var.name))
    error_message = "Lower-case letters, digits and dashes, beginning with a letter."
  }
}

variable "user" {
  description = "Login name on the machine."
  type        = string
  default     = "outpost"

  validation {
    condition     = can(regex("^[a-z_][a-z0-9_-]{0,31}$", var.user)) && var.user != "root"
    error_message = "A Linux login name other than root."
  }
}

variable "ssh_public_key" {
  description = "Public key that may log in, as one line of a .pub file. Never the private one."
  type        = string

  validation {
    condition     = can(regex("^(ssh-ed25519|ecdsa-sha2-nistp[0-9]+|ssh-rsa|sk-[a-z0-9@.-]+) [A-Za-z0-9+/=]+( [^\\n]*)?$", trimspace(var.ssh_public_key)))
    error_message = "One line that begins with ssh-ed25519 or another kind of public key."
  }
}

variable "allowed_cidrs" {
  description = "Networks that may reach port 22, such as [\"203.0.113.7/32\"]. The whole internet is refused."
  type        = list(string)

  validation {
    condition = length(var.allowed_cidrs) > 0 && alltrue([
      for cidr in var.allowed_cidrs : can(cidrhost(cidr, 0)) && !endswith(cidr, "/0")
    ])
    error_message = "At least one network in CIDR form, and none that is everybody (…/0)."
  }
}

variable "machine_type" {
  description = "Of the e2 or n2 family: two cores and 8 GB carry about four agents."
  type        = string
  default     = "e2-standard-2"

  validation {
    condition     = can(regex("^(e2|n2)-", var.machine_type))
    error_message = "A machine type of the e2 or n2 family."
  }
}

variable "disk_gb" {
  description = "Size of the disk; a working tree and a log for each worker."
  type        = number
  default     = 50

  validation {
    condition     = var.disk_gb >= 20
    error_message = "At least 20."
  }
}

variable "spot" {
  description = "Cheaper, and stopped by Google at any time: unpushed work is what checkpoints hold."
  type        = bool
  default     = false
}

variable "idle_shutdown_minutes" {
  description = "Power off after so many minutes without a worker and without a login; 0 never."
  type        = number
  default     = 0

  validation {
    condition     = var.idle_shutdown_minutes == 0 || (var.idle_shutdown_minutes >= 15 && floor(var.idle_shutdown_minutes) == var.idle_shutdown_minutes)
    error_message = "0, or a whole number of at least 15."
  }
}

variable "subnetwork" {
  description = "Name or self link of the subnetwork."
  type        = string
  default     = "default"
}

variable "network" {
  description = "Name or self link of the network that the subnetwork is in."
  type        = string
  default     = "default"
}
