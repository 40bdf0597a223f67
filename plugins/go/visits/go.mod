module visits

go 1.24

require sluicegate.dev/sluice v0.0.0

replace sluicegate.dev/sluice => ./build/sdk
