# What the validations in variables.tf compare with.
locals {
  # Addresses as Google's tokens have them, in lower case.
  email_pattern = "^[^@,:\\s'\"A-Z][^@,:\\s\"A-Z]*@[^@,:\\s'\"A-Z]+$"
  # Principals of an IAM policy. A service account of GKE has no "@":
  # PROJECT.svc.id.goog[NAMESPACE/NAME].
  member_pattern = "^((user|group):[^@,:\\s\"]+@[^@,:\\s\"]+|serviceAccount:[^@,\\s\"]+[@\\[][^@,\\s\"]+|principal(Set)?://\\S(.*\\S)?)$"
  region_pattern = "^[a-z]+-[a-z]+[0-9]+$"
  topic_pattern  = "^projects/([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]/topics/[A-Za-z][A-Za-z0-9._~+%-]{2,254}$"

  # The least and the most memory for a number of CPUs, in MiB, as in Google's table:
  # https://cloud.google.com/run/docs/configuring/services/cpu. "0.08" is for all below 0.5,
  # "0.5" for all from there to below 1.
  memory_limits = {
    "0.08" = [128, 512]
    "0.5"  = [128, 1024]
    "1"    = [128, 4096]
    "2"    = [128, 8192]
    "4"    = [2048, 16384]
    "6"    = [4096, 24576]
    "8"    = [4096, 32768]
  }
  mebibytes = { Mi = 1, Gi = 1024 }
}
