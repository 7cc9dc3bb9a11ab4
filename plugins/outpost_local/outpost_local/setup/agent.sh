# shellcheck shell=sh
# An agent that npm installs, for this user alone. Arguments: MODE COMMAND PACKAGE.
# What agents need; one that is older may do for some of them, so it is looked at last.
NODE=22.0

works() { have "$1" && "$1" --version >/dev/null 2>&1; }

# npm's last words are where its log is; what went wrong stands before them.
npm_install() {
  npm_install_said=$(npm install -g --prefix "$HOME/.local" --no-audit --no-fund --loglevel=error \
    "$@" "$package" 2>&1)
  npm_install_code=$?
  npm_install_said=$(printf '%s\n' "$npm_install_said" |
    sed -e '/complete log of this run/d' -e '/\/_logs\//d' -e '/ at .*:[0-9][0-9]*/d' \
      -e '/^npm [A-Za-z!]* *$/d')
  printf '%s\n' "$npm_install_said" >&2
  # npm says the error first and advice below it; the last line of all is what people are shown.
  npm_install_error=$(printf '%s\n' "$npm_install_said" |
    sed -n -e 's/^npm error *//p' -e 's/^npm ERR! *//p' | sed -n '1,4p' |
    sed -e ':more' -e '$!N' -e '$!b more' -e 's/\n/; /g')
  if [ -n "$npm_install_error" ]; then printf 'npm: %s\n' "$npm_install_error" >&2; fi
  return "$npm_install_code"
}

main() {
  mode=$1 program=$2 package=$3
  if works "$program"; then answer ok "$(command -v "$program")"; fi
  if ! have npm; then
    node=npm
    if find_manager && [ "$manager" = zypper ]; then node=npm-default; fi
    may_install "$mode" "$node"
    install "$node"
    hash -r
    have npm || could_not_install npm "$node"
  fi
  [ "$mode" = apply ] || answer would "npm install -g --prefix ~/.local $package"
  mkdir -p "$HOME/.local" || answer failed "$HOME/.local cannot be written" "chown it to $(id -un)"
  # Twice: a killed one may have left a folder behind that npm cannot replace at once.
  npm_install || npm_install --force
  hash -r
  if works "$program"; then answer "done" "installed: $(command -v "$program")"; fi
  if have "$program"; then
    answer failed "$program is installed and does not run" "look at: $program --version"
  fi
  node_found=$(node --version 2>/dev/null)
  if [ -n "$node_found" ] && ! at_least "$NODE" "$node_found"; then
    answer failed "$program could not be installed with Node.js $node_found, which may be too old" \
      "install Node.js ${NODE%.*} or newer there (nodejs.org), then run this again"
  fi
  answer failed "$program could not be installed" "npm install -g --prefix ~/.local $package"
}
