output "image" {
  description = "What to call the image when it is pushed."
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}/worker"
}

output "bucket" {
  description = "The bucket for claims, results and logs."
  value       = google_storage_bucket.records.name
}

output "service_account" {
  description = "Whom containers act as."
  value       = google_service_account.worker.email
}

output "add_command" {
  description = "Adds the service as an outpost."
  value = join(" ", concat(
    [
      "outpost add cloudrun burst",
      "--project", var.project,
      "--region", var.region,
      "--service", var.name,
      "--image", var.image,
      "--service-account", google_service_account.worker.email,
      "--bucket", google_storage_bucket.records.name,
      "--cpu", tostring(var.cpu),
      "--memory", "${var.memory}B",
      "--concurrency", tostring(var.concurrency),
      "--max-workers", tostring(var.max_instances * var.concurrency),
    ],
    [for variable, secret in var.secrets : "--secrets ${variable}=projects/${var.project}/secrets/${secret}:latest"],
  ))
}
