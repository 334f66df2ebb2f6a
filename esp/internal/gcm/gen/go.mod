module icvpn/esp/internal/gcm/gen

go 1.26.0
