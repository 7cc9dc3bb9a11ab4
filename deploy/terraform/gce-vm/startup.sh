#!/bin/sh
# Runs as root at each boot: what workers need, and the idle watch. Killed in the middle, the next
# boot completes it; `outpost bootstrap` does the same from outside.
set -eu

attribute() {
  curl -sf -H 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}

user=$(attribute outpost-user)
idle=$(attribute outpost-idle-minutes)

# Workers survive a logout, also before the first login.
mkdir -p /var/lib/systemd/linger
touch "/var/lib/systemd/linger/$user"

# Passwords log nobody in, and root does not at all.
cat >/etc/ssh/sshd_config.d/outpost.conf <<'END'
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
END
systemctl reload ssh || true

if ! command -v tmux >/dev/null || ! command -v git >/dev/null || ! command -v npm >/dev/null; then
  DEBIAN_FRONTEND=noninteractive
  export DEBIAN_FRONTEND
  dpkg --configure -a
  apt-get update -q
  apt-get install -y -q --no-install-recommends git tmux python3 npm
fi

# The idle watch: a stamp that workers and logins keep fresh; when it is old, power off.
cat >/usr/local/sbin/outpost-idle <<'END'
#!/bin/sh
# Power off when neither a worker nor a login was seen for $1 minutes.
set -eu
stamp=/run/outpost-busy
[ -e "$stamp" ] || touch "$stamp"
# Each worker has a supervisor, whose command line says so.
if pgrep -f 'outpost_worker/boot.py run' >/dev/null || [ -n "$(who)" ] ||
  [ -n "$(ss -Htn state established '( sport = :22 )')" ]; then
  touch "$stamp"
fi
if [ -n "$(find "$stamp" -mmin "+$1")" ]; then
  systemctl poweroff
fi
END
chmod 755 /usr/local/sbin/outpost-idle

if [ "$idle" -gt 0 ]; then
  printf '* * * * * root /usr/local/sbin/outpost-idle %s\n' "$idle" >/run/outpost-idle.cron
  command -v cron >/dev/null || apt-get install -y -q --no-install-recommends cron
  mv /run/outpost-idle.cron /etc/cron.d/outpost-idle
else
  rm -f /etc/cron.d/outpost-idle
fi
