output "address" {
  description = "The machine's public address; it stays over a stop and a start."
  value       = google_compute_address.worker.address
}

output "host_key_command" {
  description = "Prints the machine's host key as Google's API, not the network, knows it."
  value = join(" ", [
    "gcloud compute instances get-guest-attributes", var.name,
    "--project", var.project, "--zone", var.zone,
    "--query-path=hostkeys/ssh-ed25519 --format='value(value)'",
  ])
}

output "add_command" {
  description = "Adds the machine as an outpost, with its host key pinned."
  value = join(" ", [
    "outpost add ssh", var.name,
    "--host", google_compute_address.worker.address,
    "--user", var.user,
    "--host-key \"ssh-ed25519 $(gcloud compute instances get-guest-attributes", var.name,
    "--project", var.project, "--zone", var.zone,
    "--query-path=hostkeys/ssh-ed25519 --format='value(value)')\"",
  ])
}
