# shellcheck shell=sh
# python: 3.11 or newer. Arguments: MODE COMMAND (what the configuration names).
good() {
  have "$1" && "$1" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

found() {
  for candidate in "$@"; do
    if good "$candidate"; then return 0; fi
  done
  return 1
}

tell() {
  tell_version=$("$candidate" -I -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
  fact python "$candidate"
  answer "$1" "$2$tell_version ($(command -v "$candidate"))"
}

main() {
  mode=$1 wanted=$2
  newer="python3.14 python3.13 python3.12 python3.11"
  # shellcheck disable=SC2086 # words on purpose
  if found "$wanted" $newer python3; then tell ok ""; fi
  old="not installed"
  if have "$wanted"; then
    old="$("$wanted" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>&1 |
      tail -n 1) is too old"
  fi
  by_yourself="install Python 3.11 or newer (uv python install 3.13, pyenv, or this system's next\
 release), then name it: python: /path/to/python3.13"
  find_manager || answer skipped "$old, and no package manager that is known here" "$by_yourself"
  case $manager in
    zypper) packages="python314 python313 python312 python311" ;;
    pacman) packages="python" ;;
    apk) packages="python3" ;;
    *) packages="python3 $newer" ;;
  esac
  # The newest that the system has, as `python3` where that is new enough.
  find_root ||
    answer skipped "$old, and sudo asks for a password here" \
      "$(by_hand python3), or: $by_yourself"
  [ "$mode" = apply ] || answer would "$old: install one of $packages with $manager"
  for package in $packages; do
    install "$package" || continue
    hash -r
    # shellcheck disable=SC2086 # words on purpose
    if found "$wanted" python3 $newer; then tell "done" "installed: "; fi
  done
  answer failed "$old, and this system has none from 3.11 on" "$by_yourself"
}
