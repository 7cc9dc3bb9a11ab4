# shellcheck shell=sh
# Is Outpost's far side there? Looks only. Arguments: ADDRESS.
main() {
  if [ -d "${XDG_CACHE_HOME:-$HOME/.cache}/outpost/far/$1" ]; then answer ok "version $1"; fi
  answer would "upload Outpost's far side, version $1"
}
