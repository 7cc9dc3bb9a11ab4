# shellcheck shell=sh
# system: what is this machine? Arguments: MODE.
main() {
  name=$(sed -n 's/^PRETTY_NAME="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' /etc/os-release 2>/dev/null)
  kind=$(uname -s)
  fact uid "$(id -u)"
  fact login "$(id -un)"
  fact home "$HOME"
  if [ "$kind" != Linux ]; then
    answer failed "$kind: workers need Linux, whose /proc tells of their processes" \
      "use a Linux machine or container"
  fi
  [ -r /proc/self/stat ] ||
    answer failed "/proc cannot be read: process trees cannot be followed" "mount /proc"
  answer ok "${name:-Linux} on $(uname -m), kernel $(uname -r)"
}
