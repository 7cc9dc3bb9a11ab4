# shellcheck shell=sh
# Can git push from here? Looks only. Arguments: FORWARDED (yes: the caller lends its SSH agent).
main() {
  have git || answer skipped "git is missing"
  [ "$1" != yes ] || answer ok "keys of your own SSH agent are lent to workers (forward_agent)"
  for key in "$HOME"/.ssh/id_*; do
    if [ -f "$key" ] && [ "${key%.pub}" = "$key" ]; then answer ok "key $key"; fi
  done
  helper=$(git config --get-all credential.helper | head -n 1)
  if [ -n "$helper" ]; then answer ok "git's credential helper: $helper"; fi
  answer skipped "no SSH key and no credential helper: nothing can be pushed to a private rig" \
    "ssh-keygen -t ed25519 there, and give the public key to your git host; or forward_agent: true"
}
