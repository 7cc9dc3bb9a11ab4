# shellcheck shell=sh
# An agent that npm installs, for this user alone. Arguments: MODE COMMAND PACKAGE.
works() { have "$1" && "$1" --version >/dev/null 2>&1; }

main() {
  mode=$1 program=$2 package=$3
  if works "$program"; then answer ok "$(command -v "$program")"; fi
  if ! have npm; then
    node=npm
    if find_manager && [ "$manager" = zypper ]; then node=npm-default; fi
    may_install "$mode" "$node"
    install "$node"
    hash -r
    have npm || answer failed "npm could not be installed" "$(by_hand "$node")"
  fi
  [ "$mode" = apply ] || answer would "npm install -g --prefix ~/.local $package"
  mkdir -p "$HOME/.local" || answer failed "$HOME/.local cannot be written" "chown it to $(id -un)"
  # Twice: a killed one may have left a folder behind that npm cannot replace at once.
  npm install -g --prefix "$HOME/.local" --no-audit --no-fund --loglevel=error "$package" ||
    npm install -g --prefix "$HOME/.local" --no-audit --no-fund --force --loglevel=error "$package"
  hash -r
  if works "$program"; then answer "done" "installed: $(command -v "$program")"; fi
  if have "$program"; then
    answer failed "$program is installed and does not run" "look at: $program --version"
  fi
  answer failed "$program could not be installed" "npm install -g --prefix ~/.local $package"
}
