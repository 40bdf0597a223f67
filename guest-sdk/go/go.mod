module sluicegate.dev/sluice

go 1.24
