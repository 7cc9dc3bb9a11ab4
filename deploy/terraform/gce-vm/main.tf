# One machine for Outpost's workers: reachable by SSH from named networks alone, with no rights in
# the project.

locals {
  tag = "${var.name}-ssh"
}

resource "google_compute_firewall" "ssh" {
  name          = "${var.name}-ssh"
  description   = "SSH to ${var.name} from the networks of its owner"
  network       = var.network
  direction     = "INGRESS"
  source_ranges = var.allowed_cidrs
  target_tags   = [local.tag]

  allow {
    protocol = "tcp"
    ports    = ["22"]
  }
}

# Keeps its address over a stop and a start, so that the pinned host stays the same one.
resource "google_compute_address" "worker" {
  name   = var.name
  region = var.region
}

resource "google_compute_instance" "worker" {
  name                      = var.name
  zone                      = var.zone
  machine_type              = var.machine_type
  tags                      = [local.tag]
  allow_stopping_for_update = true

  boot_disk {
    initialize_params {
      image = "debian-cloud/debian-12"
      size  = var.disk_gb
      type  = "pd-balanced"
    }
  }

  network_interface {
    subnetwork = var.subnetwork

    access_config {
      nat_ip = google_compute_address.worker.address
    }
  }

  # No service account: a worker that asks the metadata server for a token gets none.

  shielded_instance_config {
    enable_secure_boot          = true
    enable_vtpm                 = true
    enable_integrity_monitoring = true
  }

  scheduling {
    preemptible                 = var.spot
    provisioning_model          = var.spot ? "SPOT" : "STANDARD"
    automatic_restart           = !var.spot
    on_host_maintenance         = var.spot ? "TERMINATE" : "MIGRATE"
    instance_termination_action = var.spot ? "STOP" : null
  }

  metadata = {
    # Keys come from this file alone: neither the project's keys nor OS Login's accounts.
    enable-oslogin          = "FALSE"
    block-project-ssh-keys  = "TRUE"
    ssh-keys                = "${var.user}:${trimspace(var.ssh_public_key)}"
    enable-guest-attributes = "TRUE"
    serial-port-enable      = "FALSE"
    outpost-user            = var.user
    outpost-idle-minutes    = tostring(var.idle_shutdown_minutes)
    startup-script          = file("${path.module}/startup.sh")
  }
}
