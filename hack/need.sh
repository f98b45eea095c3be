# Read by the scripts beside it: installs what a step needs, and says what.

# need PACKAGE...: Debian packages.
need() {
  local missing=()
  for package; do dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package"); done
  [ ${#missing[@]} -eq 0 ] && return
  echo "install: Debian packages ${missing[*]}"
  local log; log=$(mktemp)
  apt-get install -y -qq "${missing[@]}" >"$log" 2>&1 ||
    { apt-get update -qq && apt-get install -y -qq "${missing[@]}"; } >"$log" 2>&1 ||
    { tail "$log" >&2; rm "$log"; echo "install: apt-get failed" >&2; exit 1; }
  rm "$log"
}

# need_rust TARGET...: targets of the Rust toolchain.
need_rust() {
  [ -n "$(command -v cargo)" ] || [ ! -e "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"
  command -v cargo >/dev/null || { echo "install: needs Rust, from https://rustup.rs" >&2; exit 1; }
  local target
  for target; do
    # Without rustup the toolchain is the machine's own affair.
    command -v rustup >/dev/null || continue
    rustup target list --installed | grep -qx "$target" && continue
    echo "install: Rust target $target"
    rustup -q target add "$target"
  done
}
