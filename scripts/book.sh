#!/usr/bin/env bash
# The documents as one site in target/book/site; a link that leads nowhere is an error. mkdocs comes from PyPI.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
book=target/book

python3 -m venv "$book/tools" || { echo "book: python3 and python3-venv are missing" >&2; exit 1; }
"$book/tools/bin/pip" install -q --disable-pip-version-check mkdocs==1.6.1
rm -rf "$book/src"
mkdir -p "$book/src"
# As they lie here, so that links from one to the other hold.
git ls-files '*.md' 'docs/*' 'bench/*.svg' LICENSE | xargs cp --parents -t "$book/src"
"$book/tools/bin/mkdocs" build --quiet
echo "book: $book/site/index.html"
