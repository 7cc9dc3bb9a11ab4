# shellcheck shell=sh
# python: 3.11 or newer. Arguments: MODE COMMAND (what the configuration names).
recent() {
  have "$1" && "$1" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Debian's python3-minimal, and an installation that was killed, lack most of the library.
good() { recent "$1" && "$1" -I -c 'import asyncio, ctypes, shutil, zipfile' 2>/dev/null; }

found() {
  for candidate in "$@"; do
    if good "$candidate"; then return 0; fi
  done
  return 1
}

# Sets `candidate` to the Python that workers get: what the configuration names, or a newer one
# that it hands over to when it is old. One that is missing or broken hands over to nobody.
usable() {
  candidate=$wanted
  if good "$wanted"; then return 0; fi
  if recent "$wanted" || ! "$wanted" -I -c "" 2>/dev/null; then return 1; fi
  another
}

# Sets `candidate` to any other that would do.
another() {
  # shellcheck disable=SC2086 # words on purpose
  found $newer python3
}

tell() {
  tell_version=$("$candidate" -I -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
  fact python "$candidate"
  answer "$1" "$2$tell_version ($(command -v "$candidate"))"
}

# Sets `old` to what is wrong with the Python that is there.
judge() {
  old="not installed"
  if have "$wanted"; then
    old="$("$wanted" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>&1 |
      tail -n 1) is too old"
  fi
  if recent "$wanted"; then old="$wanted lacks parts of its standard library"; fi
}

main() {
  mode=$1 wanted=$2
  newer="python3.14 python3.13 python3.12 python3.11"
  if usable; then tell ok ""; fi
  judge
  by_yourself="install Python 3.11 or newer (uv python install 3.13, pyenv, or this system's next\
 release), then name it: python: /path/to/python3.13"
  if another; then
    old="$old; $candidate is there"
    by_yourself="name it: python: $(command -v "$candidate")"
  fi
  find_manager || answer skipped "$old, and no package manager that is known here" "$by_yourself"
  case $manager in
    zypper) packages="python314 python313 python312 python311" ;;
    pacman) packages="python" ;;
    apk) packages="python3" ;;
    *) packages="python3 $newer" ;;
  esac
  # The newest that the system has, as `python3` where that is new enough.
  find_root || answer skipped "$old, and $no_root" "$(by_hand python3), or: $by_yourself"
  [ "$mode" = apply ] || answer would "$old: install one of $packages with $manager"
  for package in $packages; do
    install "$package" || continue
    hash -r
    if usable; then tell "done" "installed: "; fi
  done
  [ -z "$unfetched" ] || could_not_install "Python 3.11 or newer"
  if another; then
    answer failed "$wanted cannot be used; $candidate is there" \
      "name it: python: $(command -v "$candidate")"
  fi
  judge
  answer failed "$old, and this system has none from 3.11 on" "$by_yourself"
}
