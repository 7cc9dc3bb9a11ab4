# What Outpost needs at Google to run workers in containers: who they act as, where their image,
# records and secrets are, and the service itself once there is an image.

locals {
  apis   = toset(["run.googleapis.com", "artifactregistry.googleapis.com", "secretmanager.googleapis.com"])
  worker = "serviceAccount:${google_service_account.worker.email}"
}

resource "google_project_service" "api" {
  for_each           = local.apis
  service            = each.value
  disable_on_destroy = false
}

# Whom containers act as. It has no role in the project: only those below, each on one thing.
resource "google_service_account" "worker" {
  account_id   = var.name
  display_name = "Workers of Outpost"
}

resource "google_artifact_registry_repository" "images" {
  repository_id = var.name
  location      = var.region
  format        = "DOCKER"
  description   = "Images of Outpost's workers"
  depends_on    = [google_project_service.api]
}

# Claims, results and logs. Nobody but those who are named reads it.
resource "google_storage_bucket" "records" {
  name                        = "${var.project}-${var.name}"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  lifecycle_rule {
    condition {
      age = var.keep_days
    }

    action {
      type = "Delete"
    }
  }
}

resource "google_storage_bucket_iam_member" "worker" {
  bucket = google_storage_bucket.records.name
  role   = "roles/storage.objectUser"
  member = local.worker
}

# The near side of jobs reads results and logs there, and finishes what left none.
resource "google_storage_bucket_iam_member" "deployer" {
  for_each = toset(var.deployers)
  bucket   = google_storage_bucket.records.name
  role     = "roles/storage.objectUser"
  member   = each.value
}

# Secrets without a value: `gcloud secrets versions add` gives them one, so that none is in a state.
resource "google_secret_manager_secret" "worker" {
  for_each  = toset(values(var.secrets))
  secret_id = each.value

  replication {
    auto {}
  }

  depends_on = [google_project_service.api]
}

resource "google_secret_manager_secret_iam_member" "worker" {
  for_each  = google_secret_manager_secret.worker
  secret_id = each.value.id
  role      = "roles/secretmanager.secretAccessor"
  member    = local.worker
}

resource "google_cloud_run_v2_service" "worker" {
  count               = var.image == "" ? 0 : 1
  name                = var.name
  location            = var.region
  ingress             = "INGRESS_TRAFFIC_ALL"
  deletion_protection = false

  template {
    service_account                  = google_service_account.worker.email
    timeout                          = "3600s"
    max_instance_request_concurrency = var.concurrency
    session_affinity                 = true
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"

    scaling {
      min_instance_count = 0
      max_instance_count = var.max_instances
    }

    containers {
      image = var.image

      # Google speaks HTTP/2 to a port of this name.
      ports {
        name           = "h2c"
        container_port = 8080
      }

      resources {
        cpu_idle          = true
        startup_cpu_boost = true

        limits = {
          cpu    = tostring(var.cpu)
          memory = var.memory
        }
      }

      env {
        name  = "OUTPOST_BUCKET"
        value = google_storage_bucket.records.name
      }

      dynamic "env" {
        for_each = var.secrets

        content {
          name = env.key

          value_source {
            secret_key_ref {
              secret  = env.value
              version = "latest"
            }
          }
        }
      }
    }
  }

  # `outpost bootstrap` says from here on how containers are; Terraform does not undo it.
  lifecycle {
    ignore_changes = [client, client_version, labels, launch_stage, scaling, template]
  }

  depends_on = [
    google_project_service.api,
    google_secret_manager_secret_iam_member.worker,
    google_storage_bucket_iam_member.worker,
  ]
}

resource "google_cloud_run_v2_service_iam_member" "invoker" {
  for_each = var.image == "" ? toset([]) : toset(var.invokers)
  name     = google_cloud_run_v2_service.worker[0].name
  location = var.region
  role     = "roles/run.invoker"
  member   = each.value
}

resource "google_project_iam_member" "deployer" {
  for_each = toset(var.deployers)
  project  = var.project
  role     = "roles/run.developer"
  member   = each.value
}

resource "google_service_account_iam_member" "deployer" {
  for_each           = toset(var.deployers)
  service_account_id = google_service_account.worker.name
  role               = "roles/iam.serviceAccountUser"
  member             = each.value
}
