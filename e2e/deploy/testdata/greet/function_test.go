package greet_test

import "testing"

func TestStaysBehind(t *testing.T) {}
