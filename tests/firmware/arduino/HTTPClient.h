// One GET over a real socket; a negative number when there is no answer.
#pragma once
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include "Arduino.h"

class WiFiClient;

class HTTPClient {
  std::string host, port, path, body;
  uint16_t timeout = 5000;

 public:
  void setTimeout(uint16_t milliseconds) { timeout = milliseconds; }
  void end() {}
  String getString() const { return body; }

  bool begin(WiFiClient &, const String &url) {
    size_t colon = url.find(':', 7), slash = url.find('/', 7);
    if (url.rfind("http://", 0) != 0 || colon == url.npos || slash == url.npos) return false;
    host = url.substr(7, colon - 7);
    port = url.substr(colon + 1, slash - colon - 1);
    path = url.substr(slash);
    return true;
  }

  int GET() {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(std::stoi(port));
    inet_pton(AF_INET, host.c_str(), &address.sin_addr);
    int line = socket(AF_INET, SOCK_STREAM, 0), status = -1;
    if (connect(line, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0) {
      std::string request = "GET " + path + " HTTP/1.1\r\nHost: " + host + ":" + port +
                            "\r\nConnection: close\r\n\r\n";
      send(line, request.data(), request.size(), MSG_NOSIGNAL);
      std::string answer;
      char piece[4096];
      for (ssize_t got; (got = recv(line, piece, sizeof piece, 0)) > 0;) answer.append(piece, got);
      size_t end = answer.find("\r\n\r\n");
      if (answer.rfind("HTTP/1.", 0) == 0 && end != answer.npos) {
        status = std::stoi(answer.substr(9, 3));
        body = answer.substr(end + 4);
      }
    }
    close(line);
    now_ms += 40;
    return status;
  }
};
