module memgate.dev/fixtures

go 1.21
