module icvpn/esp/internal/lanes/gen

go 1.26.0
