# What the validations in variables.tf compare with.
locals {
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
