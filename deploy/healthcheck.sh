#!/bin/bash
# Is this role making progress? Asks its own /readyz; bash alone, so that the image carries no HTTP client.
set -euo pipefail

port="${HEALTH_PORT:-8080}"
exec 3<>"/dev/tcp/127.0.0.1/${port}"
printf 'GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' >&3
read -r -t 4 _ status _ <&3
[[ "${status}" == 200 ]]
