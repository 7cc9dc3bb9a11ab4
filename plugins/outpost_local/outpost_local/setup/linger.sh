# shellcheck shell=sh
# logout: may workers keep running when nobody is logged in? Arguments: MODE.
main() {
  mode=$1
  if [ ! -d /run/systemd/system ] || ! have loginctl; then
    answer ok "no systemd here to end workers at logout"
  fi
  user=$(id -un)
  if [ "$(loginctl show-user "$user" --property=Linger --value 2>/dev/null)" = yes ] ||
    [ -e "/var/lib/systemd/linger/$user" ]; then
    answer ok "workers survive a logout (linger is on)"
  fi
  [ "$mode" = apply ] || answer would "loginctl enable-linger $user"
  if loginctl enable-linger "$user" 2>/dev/null; then
    answer "done" "workers survive a logout (linger is on)"
  fi
  if find_root; then
    # shellcheck disable=SC2086 # words on purpose
    if $as_root loginctl enable-linger "$user"; then
      answer "done" "workers survive a logout (linger is on)"
    fi
  fi
  answer skipped "systemd may end workers at logout, and linger may not be set here" \
    "$(by_root)loginctl enable-linger $user"
}
