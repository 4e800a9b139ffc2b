#pragma once
#include "Arduino.h"

class WiFiClient {};
inline struct {
  void begin(const char *, const char *) {}
} WiFi;
