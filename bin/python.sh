# Sets $python to an interpreter that can run Quiver. The upper bound comes first: PostgreSQL's wheels end there.
python=
for bound in 3.15 4; do
  for name in python3 python3.11 python3.12 python3.13 python3.14 python3.15 python; do
    found=$(command -v "$name" 2>/dev/null) || continue
    check="import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] < tuple(map(int, '$bound'.split('.')))))"
    if "$found" -c "$check" >/dev/null 2>&1; then
      python=$found
      break 2
    fi
  done
done
if [ -z "$python" ]; then
  echo "quiver: no Python 3.11 or later on the PATH; install one (Debian, Ubuntu: apt install python3 python3-venv)" >&2
  exit 1
fi
