#!/usr/bin/env bash
# Builds the documents as one site in target/book/site; a broken link is an error. mkdocs comes from PyPI.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
book=target/book

python3 -m venv "$book/tools" || { echo "book: python3 and python3-venv are missing" >&2; exit 1; }
"$book/tools/bin/pip" install -q --disable-pip-version-check mkdocs==1.6.1
rm -rf "$book/src"
mkdir -p "$book/src"
# In the same folders as here, so that links between them work.
git ls-files '*.md' 'docs/*' 'bench/*.svg' 'samples/*' LICENSE | xargs cp --parents -t "$book/src"
"$book/tools/bin/mkdocs" build --quiet
echo "book: $book/site/index.html"
