#!/bin/bash
# Whether the ingester of this machine serves. The image has no HTTP client, so bash speaks for itself.
exec 2>/dev/null
exec 3<>"/dev/tcp/127.0.0.1/${PROBE_PORT:-3011}" || exit 1
printf 'GET /livez HTTP/1.0\r\n\r\n' >&3
read -r -t 3 _ status _ <&3
[ "$status" = 200 ]
