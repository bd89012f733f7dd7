#!/bin/sh
# Waits until the Google APIs that Terraform has enabled answer: for up to some
# minutes after the call that enables one, it is SERVICE_DISABLED. Run by
# terraform apply, once for each of the sets that apis.tf has:
#
#   wait-for-apis.sh PROJECT API...
#
# Where a token can be had, each API is asked, and Pub/Sub's service agent is
# created, since the first grants name it. Elsewhere it waits 90 seconds, once.
# It never fails: what then still lacks, Terraform's next step says best.
set -u

project=$1
shift

longest=300  # seconds to wait for an API that is asked
blind=90     # seconds to wait where none can be asked
in_a_row=3   # answers; not every server of an API knows at the same time

token=''
if command -v curl >/dev/null 2>&1; then
  token=${GOOGLE_OAUTH_ACCESS_TOKEN-}
  if [ -z "$token" ] && command -v gcloud >/dev/null 2>&1; then
    token=$(gcloud auth application-default print-access-token 2>/dev/null </dev/null) ||
      token=$(gcloud auth print-access-token 2>/dev/null </dev/null) || token=''
  fi
fi

# ask METHOD URL prints the answer. The token stays out of the list of processes.
ask() {
  printf 'header = "Authorization: Bearer %s"\n' "$token" |
    curl -sS --max-time 10 --config - -X "$1" -H 'Content-Length: 0' "$2" 2>/dev/null
}

# address API prints a URL of the API that reads something and exists in every
# project, or nothing where the API is not used by the apply itself.
address() {
  case $1 in
    artifactregistry.googleapis.com) echo "https://$1/v1/projects/$project/locations" ;;
    cloudscheduler.googleapis.com) echo "https://$1/v1/projects/$project/locations" ;;
    firestore.googleapis.com) echo "https://$1/v1/projects/$project/databases" ;;
    iam.googleapis.com) echo "https://$1/v1/projects/$project/serviceAccounts?pageSize=1" ;;
    logging.googleapis.com) echo "https://$1/v2/projects/$project/exclusions?pageSize=1" ;;
    monitoring.googleapis.com) echo "https://$1/v3/projects/$project/alertPolicies?pageSize=1" ;;
    pubsub.googleapis.com) echo "https://$1/v1/projects/$project/topics?pageSize=1" ;;
    secretmanager.googleapis.com) echo "https://$1/v1/projects/$project/secrets?pageSize=1" ;;
  esac
}

if [ -z "$token" ] || ! ask GET "https://serviceusage.googleapis.com/v1/projects/$project/services/pubsub.googleapis.com" | grep -q '"state"'; then
  echo "APIs were enabled, and cannot be asked from here: waiting ${blind} s until they answer"
  sleep "$blind"
  exit 0
fi

begun=$(date +%s)
for api in "$@"; do
  url=$(address "$api")
  [ -n "$url" ] || continue
  good=0
  while [ "$good" -lt "$in_a_row" ]; do
    answer=$(ask GET "$url") || answer=SERVICE_DISABLED
    case $answer in
      *SERVICE_DISABLED*)
        good=0
        waited=$(($(date +%s) - begun))
        if [ "$waited" -ge "$longest" ]; then
          echo "$api does not answer after $waited s; going on"
          break
        fi
        echo "waiting for $api, $waited s"
        sleep 5
        ;;
      *) good=$((good + 1)) ;;
    esac
  done
done

# Otherwise it comes to be with the first topic, or some time later.
case " $* " in *" pubsub.googleapis.com "*) ;; *) exit 0 ;; esac
ask POST "https://serviceusage.googleapis.com/v1beta1/projects/$project/services/pubsub.googleapis.com:generateServiceIdentity" >/dev/null ||
  echo "Pub/Sub's service agent could not be created ahead; it comes with the first topic"
exit 0
