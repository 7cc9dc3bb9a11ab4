# shellcheck shell=sh
# git, tmux: a program from the system's packages. Arguments: MODE PROGRAM VERSION-FLAG WANTED.
main() {
  mode=$1 program=$2 flag=$3 wanted=$4
  if have "$program"; then
    found=$("$program" "$flag" 2>&1 | head -n 1)
    if at_least "$wanted" "$found"; then answer ok "$found"; fi
  else
    found=
  fi
  may_install "$mode" "$program"
  install "$program"
  hash -r
  have "$program" || could_not_install "$program"
  now=$("$program" "$flag" 2>&1 | head -n 1)
  if at_least "$wanted" "$now"; then answer "done" "installed: $now"; fi
  answer failed "$now is too old, and this system has no newer one" \
    "install $program $wanted or newer"
}
